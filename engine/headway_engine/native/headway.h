/* A decoder's step on the CPU with AVX-512: what the files of this folder share. model/native.py mirrors these structs.
 *
 * Rows are tokens of any sequences. Each row is computed alone: no sum's order depends on what else is in the step, so a
 * token's logits are the same, bit by bit, in any company. Widths of float rows are padded to 32 with zeros. */
#ifndef HEADWAY_H
#define HEADWAY_H

#include <immintrin.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What weights and the inputs of products are stored as. */
enum { FLOAT32, BFLOAT16, INT8 };

/* int8: inputs are bytes times a scale for each 32 of them (some inputs of a row are a hundred times the others, and one
 * scale for all would leave the others 2 bits); sums within 32 are exact. Weights are bytes + 128 times a scale per output,
 * so `shift` takes 128 times the inputs off again. */
enum { BLOCK = 32 };
typedef struct {
  float scale;
  int32_t shift;
} Block;

/* outputs and inputs are padded to 32. weight lies as [outputs/32][groups][32][4 bytes]: 4, 2 or 1 inputs are a group. */
typedef struct {
  const uint8_t *weight;
  const float *scale; /* [outputs], int8 */
  const float *bias;  /* [outputs] or NULL */
  int32_t groups, outputs;
} Matrix;

typedef struct {
  const float *attention_norm, *q_norm, *k_norm, *feed_forward_norm; /* q_norm, k_norm: [head_dim] or NULL */
  Matrix qkv, out, gate_up, down;
  void *keys, *values; /* [blocks][block_size][kv_heads][head_dim], float or bfloat16 */
} Layer;

typedef struct {
  int32_t type, embed_type, kv_type;
  int32_t amx; /* the matrix unit may be used, for types that it knows */
  int32_t hidden, intermediate, heads, kv_heads, head_dim, vocabulary, block_size, num_layers, max_len;
  float eps;
  const float *cos, *sin; /* [max_len][head_dim / 2] */
  const void *embed;      /* [vocabulary][hidden] */
  const float *norm;
  const Layer *layers;
  Matrix head;
} Model;

/* The rows that sample come first: the others end in the last layer, where their keys and values are stored. */
typedef struct {
  int32_t rows, sampled, table_width;
  const int32_t *tokens, *positions, *sequences; /* [rows]; which row of `tables` */
  const int32_t *tables;                         /* [sequences][table_width], blocks */
  float *logits;                                 /* [sampled][head.outputs] */
  int32_t *likeliest;                            /* [sampled], or -1 where a logit is not finite */
} Step;

/* Threads that meet between the phases of a step; each phase's items go to whoever is free. */
typedef struct Pool Pool;
void pool_meet(Pool *pool);
/* The first of the next `count` items of this phase that nobody has taken; it may be behind the last one. */
int pool_claim(Pool *pool, int count);
/* How many of `count` items to claim at once. */
int pool_share(Pool *pool, int count);
Pool *pool_start(int threads, void (*work)(void *, int), void *argument);
void pool_run(Pool *pool);
void pool_stop(Pool *pool);

/* Stores `count` floats (a multiple of 16) as a product's input, and zeros up to a multiple of 32. */
void pack_row(const float *from, int count, int type, uint8_t *x, Block *blocks);

/* What becomes of a product's sums: they are stored, added to what is there, or make half as many outputs, silu(left) * right
 * of each 16 beside 16. */
enum { STORE, ADD, GATE };

/* One product: `x` is [rows][groups][4 bytes], `blocks` is [rows][groups / 8], `out` is [rows][stride]. */
typedef struct {
  const Matrix *matrix;
  const uint8_t *x;
  const Block *blocks;
  float *out;
  long stride;
  int rows, type, finish;
  bool amx;
} Product;
/* This thread's share; the pool must meet before and after. */
void product(Pool *pool, const Product *p);

/* bfloat16: rows `row .. end - 1` of outputs `column .. column + 31`. */
void amx_tiles(const Product *p, int row, int end, int column);
/* Before a thread waits: the kernel need not keep the matrix unit's registers for it. */
void amx_leave(void);

void rotate_and_store(const Model *model, const Layer *layer, const Step *step, int row, float *qkv);
/* Floats that one head's scores take. Not a power of two: heads would meet in the same places of the CPU's caches. */
static inline long score_room(const Model *model) { return (model->max_len + 3) / 4 * 4 + 16; }
/* One row and one KV head; `scores` has room for those of 4 heads. */
void attend(const Model *model, const Layer *layer, const Step *step, int row, int kv_head, const float *qkv, float *mixed,
            float *scores);

static inline __m512 load_bf16(const void *from) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from)), 16));
}

static inline void store_bf16(void *to, __m512 value) { _mm256_storeu_si256(to, (__m256i)_mm512_cvtneps_pbh(value)); }

/* e^x to 2 units in the last place; 0 below -87. Taylor's polynomial on [-ln 2 / 2, ln 2 / 2], times a power of two. */
static inline __m512 exp_ps(__m512 x) {
  x = _mm512_min_ps(_mm512_set1_ps(88.0f), x);
  x = _mm512_max_ps(_mm512_set1_ps(-104.0f), x);
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.0f / 5040);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 720));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 120));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 24));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f / 6));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

/* The finished sums of one row: outputs `column .. column + 31`. */
static inline void put(const Product *p, int row, int column, __m512 left, __m512 right) {
  if (p->matrix->bias) {
    left = _mm512_add_ps(left, _mm512_loadu_ps(p->matrix->bias + column));
    right = _mm512_add_ps(right, _mm512_loadu_ps(p->matrix->bias + column + 16));
  }
  float *out = p->out + row * p->stride + (p->finish == GATE ? column / 2 : column);
  if (p->finish == GATE) {
    __m512 divisor = _mm512_add_ps(_mm512_set1_ps(1), exp_ps(_mm512_sub_ps(_mm512_setzero_ps(), left)));
    _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_div_ps(left, divisor), right));
    return;
  }
  if (p->finish == ADD) {
    left = _mm512_add_ps(left, _mm512_loadu_ps(out));
    right = _mm512_add_ps(right, _mm512_loadu_ps(out + 16));
  }
  _mm512_storeu_ps(out, left);
  _mm512_storeu_ps(out + 16, right);
}

#endif
