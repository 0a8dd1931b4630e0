/* The decoder's step: phases that all threads go through together, with a meeting between two of them. */
#define _GNU_SOURCE
#include "headway.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Threads and work space; of one caller at a time. */
typedef struct {
  Pool *pool;
  const Model *model;
  const Step *step;
  int room;      /* rows that the work space has room for */
  float *h;      /* [rows][hidden], the residual stream */
  float *wide;   /* [rows][queries, keys and values; or hidden] */
  float *mixed;  /* [rows][heads * head_dim], or the gated inner state */
  uint8_t *x;    /* [rows][the widest product's inputs] */
  Block *blocks; /* [rows][their blocks] */
  float *scores; /* [threads][4][score_room] */
} Context;

static long padded(long count) { return (count + 31) / 32 * 32; }
static long larger(long a, long b) { return a > b ? a : b; }
static long hidden_width(const Model *m) { return padded(m->hidden); }
static long wide_width(const Model *m) {
  return larger(hidden_width(m), m->layers[0].qkv.outputs);
}
static long mixed_width(const Model *m) { return larger(padded(m->intermediate), padded(m->heads * m->head_dim)); }

/* Some at a time: a claim costs as much as a small item, since all threads write its line. */
#define EACH(item, count)                                                                                \
  for (int share = pool_share(c->pool, count), first = 0; (first = pool_claim(c->pool, share)) < (count);) \
    for (int item = first; item < (count) && item < first + share; item++)

/* Where a product with this matrix finds a row. */
static uint8_t *inputs(Context *c, const Matrix *matrix, long row) { return c->x + 4L * matrix->groups * row; }
static Block *blocks(Context *c, const Matrix *matrix, long row) { return c->blocks + matrix->groups / 8 * row; }

/* RMSNorm of `from`, stored as the input of a product; `work` holds `hidden` floats. */
static void norm_row(const Model *m, const float *from, const float *weight, float *work, uint8_t *x, Block *blocks) {
  __m512 squares = _mm512_setzero_ps();
  for (int i = 0; i < m->hidden; i += 16) {
    __m512 v = _mm512_loadu_ps(from + i);
    squares = _mm512_fmadd_ps(v, v, squares);
  }
  __m512 inverse = _mm512_set1_ps(1 / sqrtf(_mm512_reduce_add_ps(squares) / m->hidden + m->eps));
  for (int i = 0; i < m->hidden; i += 16)
    _mm512_storeu_ps(work + i, _mm512_mul_ps(_mm512_mul_ps(_mm512_loadu_ps(from + i), inverse), _mm512_loadu_ps(weight + i)));
  pack_row(work, m->hidden, m->type, x, blocks);
}

static void norm(Context *c, int rows, const float *weight, const Matrix *next) {
  long width = hidden_width(c->model), wide = wide_width(c->model);
  EACH(row, rows)
  norm_row(c->model, c->h + row * width, weight, c->wide + row * wide, inputs(c, next, row), blocks(c, next, row));
  pool_meet(c->pool);
}

/* Makes rows of `mixed` the next product's inputs. */
static void pack(Context *c, int rows, int count, const Matrix *next) {
  EACH(row, rows)
  pack_row(c->mixed + row * mixed_width(c->model), count, c->model->type, inputs(c, next, row), blocks(c, next, row));
  pool_meet(c->pool);
}

static void multiply(Context *c, int rows, const Matrix *matrix, float *out, long stride, int finish) {
  Product p = {matrix, c->x, c->blocks, out, stride, rows, c->model->type, finish, c->model->amx};
  product(c->pool, &p);
  pool_meet(c->pool);
}

static void embed(Context *c) {
  const Model *m = c->model;
  long width = hidden_width(m);
  EACH(row, c->step->rows) {
    long from = (long)c->step->tokens[row] * m->hidden;
    for (int i = 0; i < m->hidden; i += 16)
      _mm512_storeu_ps(c->h + row * width + i, m->embed_type == BFLOAT16 ? load_bf16((const uint16_t *)m->embed + from + i)
                                                                         : _mm512_loadu_ps((const float *)m->embed + from + i));
  }
  pool_meet(c->pool);
}

/* Leaves the queries in `wide`. */
static void store_keys_and_values(Context *c, int rows, const Layer *layer) {
  long wide = wide_width(c->model);
  norm(c, rows, layer->attention_norm, &layer->qkv);
  multiply(c, rows, &layer->qkv, c->wide, wide, STORE);
  EACH(row, rows) rotate_and_store(c->model, layer, c->step, row, c->wide + row * wide);
  pool_meet(c->pool);
}

static void attention(Context *c, int rows, const Layer *layer, int thread) {
  const Model *m = c->model;
  long wide = wide_width(m), width = mixed_width(m);
  EACH(item, rows * m->kv_heads) {
    long row = item / m->kv_heads;
    attend(m, layer, c->step, row, item % m->kv_heads, c->wide + row * wide, c->mixed + row * width,
           c->scores + 4 * score_room(m) * thread);
  }
  pool_meet(c->pool);
  pack(c, rows, m->heads * m->head_dim, &layer->out);
  multiply(c, rows, &layer->out, c->h, hidden_width(m), ADD);
}

static void feed_forward(Context *c, int rows, const Layer *layer) {
  const Model *m = c->model;
  norm(c, rows, layer->feed_forward_norm, &layer->gate_up);
  multiply(c, rows, &layer->gate_up, c->mixed, mixed_width(m), GATE);
  pack(c, rows, m->intermediate, &layer->down);
  multiply(c, rows, &layer->down, c->h, hidden_width(m), ADD);
}

/* The first of the largest, or -1 where one is infinite or no number. */
static int32_t likeliest(const float *logits, int count) {
  const int bad = 0x01 | 0x08 | 0x10 | 0x80; /* quiet NaN, +inf, -inf, signalling NaN */
  __m512 most = _mm512_set1_ps(-INFINITY);
  __m512i at = _mm512_setzero_si512(), index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int i = 0; i < count; i += 16, index = _mm512_add_epi32(index, _mm512_set1_epi32(16))) {
    __mmask16 here = count - i < 16 ? (1u << (count - i)) - 1 : 0xFFFF;
    __m512 v = _mm512_maskz_loadu_ps(here, logits + i);
    if (_mm512_fpclass_ps_mask(v, bad)) return -1;
    __mmask16 more = _mm512_mask_cmp_ps_mask(here, v, most, _CMP_GT_OQ);
    most = _mm512_mask_mov_ps(most, more, v);
    at = _mm512_mask_mov_epi32(at, more, index);
  }
  __mmask16 largest = _mm512_cmp_ps_mask(most, _mm512_set1_ps(_mm512_reduce_max_ps(most)), _CMP_EQ_OQ);
  return _mm512_mask_reduce_min_epi32(largest, at);
}

static void logits(Context *c) {
  const Matrix *head = &c->model->head;
  const Step *step = c->step;
  norm(c, step->sampled, c->model->norm, head);
  multiply(c, step->sampled, head, step->logits, head->outputs, STORE);
  EACH(row, step->sampled)
  step->likeliest[row] = likeliest(step->logits + (long)head->outputs * row, c->model->vocabulary);
}

static void work(void *context, int thread) {
  Context *c = context;
  const Layer *layers = c->model->layers, *last = layers + c->model->num_layers - 1;
  embed(c);
  for (const Layer *layer = layers; layer <= last; layer++) {
    store_keys_and_values(c, c->step->rows, layer);
    /* Later tokens read the last layer's keys and values, and nothing else of it but what samples. */
    int rows = layer == last ? c->step->sampled : c->step->rows;
    attention(c, rows, layer, thread);
    feed_forward(c, rows, layer);
  }
  logits(c);
  amx_leave();
}

static void release(Context *c) {
  free(c->h);
  free(c->wide);
  free(c->mixed);
  free(c->blocks);
  free(c->x);
  c->h = c->wide = c->mixed = NULL;
  c->x = NULL;
  c->blocks = NULL;
  c->room = 0;
}

/* Zeros: padding is read, and must be a number. In large pages, where the kernel has them: a tile of a product writes a line
 * in each of many rows, and small pages would be one for each row. */
static void *zeros(long bytes) {
  enum { PAGE = 2 << 20 };
  long rounded = (bytes + PAGE - 1) / PAGE * PAGE;
  void *memory = aligned_alloc(PAGE, rounded);
  if (!memory) return NULL;
  madvise(memory, rounded, MADV_HUGEPAGE);
  return memset(memory, 0, bytes);
}

static bool make_room(Context *c, int rows) {
  const Model *m = c->model;
  if (rows <= c->room) return true;
  release(c);
  c->h = zeros(4 * rows * hidden_width(m));
  c->wide = zeros(4 * rows * wide_width(m));
  c->mixed = zeros(4 * rows * mixed_width(m));
  c->blocks = zeros(sizeof(Block) * rows * larger(hidden_width(m), mixed_width(m)) / BLOCK);
  c->x = zeros(4 * rows * larger(hidden_width(m), mixed_width(m)));
  if (!c->h || !c->wide || !c->mixed || !c->blocks || !c->x) {
    release(c);
    return false;
  }
  c->room = rows;
  return true;
}

void headway_close(Context *c) {
  if (c->pool) pool_stop(c->pool);
  release(c);
  free(c->scores);
  free(c);
}

/* NULL: no memory. The model must stay where it is. */
Context *headway_open(const Model *model, int threads) {
  Context *c = calloc(1, sizeof(Context));
  if (!c) return NULL;
  c->model = model;
  c->scores = zeros(16 * score_room(model) * threads);
  c->pool = c->scores ? pool_start(threads, work, c) : NULL;
  if (c->pool) return c;
  headway_close(c);
  return NULL;
}

/* false: no memory. */
bool headway_step(Context *c, const Step *step) {
  if (!make_room(c, step->rows)) return false;
  c->step = step;
  pool_run(c->pool);
  return true;
}

/* Which sources this library was built from; native/build.py knows which ones lie beside it. */
const char *headway_sources(void) { return HEADWAY_SOURCES; }
