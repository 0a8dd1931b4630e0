/* Rotation of queries and keys, the paged KV cache, and each row's attention over its own prefix in it. */
#include "headway.h"

#include <math.h>

#define ALWAYS static inline __attribute__((always_inline))

static void normalize(float *x, const float *weight, int count, float eps) {
  float sum = 0;
  for (int i = 0; i < count; i++) sum += x[i] * x[i];
  float inverse = 1 / sqrtf(sum / count + eps);
  for (int i = 0; i < count; i++) x[i] *= inverse * weight[i];
}

static void store(void *cache, long at, const float *from, int count, int type) {
  for (int i = 0; i < count; i += 16) {
    __m512 v = _mm512_loadu_ps(from + i);
    if (type == BFLOAT16)
      store_bf16((uint16_t *)cache + at + i, v);
    else
      _mm512_storeu_ps((float *)cache + at + i, v);
  }
}

void rotate_and_store(const Model *model, const Layer *layer, const Step *step, int row, float *qkv) {
  int dim = model->head_dim, half = dim / 2, position = step->positions[row];
  const float *cos = model->cos + (long)position * half, *sin = model->sin + (long)position * half;
  for (int head = 0; head < model->heads + model->kv_heads; head++) {
    float *restrict low = qkv + head * dim, *restrict high = low + half;
    const float *norm = head < model->heads ? layer->q_norm : layer->k_norm;
    if (norm) normalize(low, norm, dim, model->eps);
    for (int i = 0; i < half; i++) {
      float a = low[i], b = high[i];
      low[i] = a * cos[i] - b * sin[i];
      high[i] = b * cos[i] + a * sin[i];
    }
  }
  int block = step->tables[(long)step->sequences[row] * step->table_width + position / model->block_size];
  int width = model->kv_heads * dim;
  long at = ((long)block * model->block_size + position % model->block_size) * width;
  const float *key = qkv + model->heads * dim;
  store(layer->keys, at, key, width, model->kv_type);
  store(layer->values, at, key + width, width, model->kv_type);
}

ALWAYS __m512 load(const void *cache, long at, const int type) {
  return type == BFLOAT16 ? load_bf16((const uint16_t *)cache + at) : _mm512_loadu_ps((const float *)cache + at);
}

/* What a group of query heads needs to walk its sequence: its blocks, and where a head's numbers lie in them. */
typedef struct {
  const int32_t *table;
  int context, block_size, dim;
  long width, head_at; /* elements of one token; of those before this head */
  long room;           /* scores of one head */
} Walk;

/* Where this head's numbers of a position begin that is the first of its block. */
ALWAYS long block_at(const Walk *walk, int position) {
  return (long)walk->table[position / walk->block_size] * walk->block_size * walk->width + walk->head_at;
}

/* The sums of four vectors; each adds its numbers in the same order. */
ALWAYS __m128 sums(const __m512 v[4]) {
  __m512 left = _mm512_add_ps(_mm512_unpacklo_ps(v[0], v[1]), _mm512_unpackhi_ps(v[0], v[1]));
  __m512 right = _mm512_add_ps(_mm512_unpacklo_ps(v[2], v[3]), _mm512_unpackhi_ps(v[2], v[3]));
  __m512 all = _mm512_add_ps((__m512)_mm512_unpacklo_pd((__m512d)left, (__m512d)right),
                             (__m512)_mm512_unpackhi_pd((__m512d)left, (__m512d)right));
  __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

/* Four positions at a time; at the end of a block or of the context the last one stands in for those that are missing, and
 * what is written for them is overwritten or never read. `values` come into the cache for what follows. */
ALWAYS void score(const Walk *walk, const Layer *layer, const float *query, float *scores, const int group, const int type) {
  const int size = type == BFLOAT16 ? 2 : 4, line = 64 / size;
  __m128 scale = _mm_set1_ps(1 / sqrtf(walk->dim));
  for (int start = 0; start < walk->context; start += walk->block_size) {
    long block = block_at(walk, start);
    int count = start + walk->block_size < walk->context ? walk->block_size : walk->context - start;
    /* Blocks lie anywhere, so the CPU does not guess the next one. */
    long next = start + walk->block_size < walk->context ? block_at(walk, start + walk->block_size) - block : 0;
    for (int j = 0; j < count; j += 4) {
      __m512 sum[4][4];
      long at[4];
#pragma GCC unroll 4
      for (int p = 0; p < 4; p++) {
        at[p] = block + (j + p < count ? j + p : count - 1) * walk->width;
        for (int d = 0; d < walk->dim; d += line) {
          _mm_prefetch((const char *)layer->values + (at[p] + d) * size, _MM_HINT_T1);
          _mm_prefetch((const char *)layer->keys + (at[p] + next + d) * size, _MM_HINT_T0);
        }
#pragma GCC unroll 4
        for (int g = 0; g < group; g++) sum[g][p] = _mm512_setzero_ps();
      }
      for (int d = 0; d < walk->dim; d += 16) {
        __m512 key[4];
#pragma GCC unroll 4
        for (int p = 0; p < 4; p++) key[p] = load(layer->keys, at[p] + d, type);
#pragma GCC unroll 4
        for (int g = 0; g < group; g++) {
          __m512 q = _mm512_loadu_ps(query + g * walk->dim + d);
#pragma GCC unroll 4
          for (int p = 0; p < 4; p++) sum[g][p] = _mm512_fmadd_ps(q, key[p], sum[g][p]);
        }
      }
#pragma GCC unroll 4
      for (int g = 0; g < group; g++)
        _mm_storeu_ps(scores + g * walk->room + start + j, _mm_mul_ps(sums(sum[g]), scale));
    }
  }
}

/* Makes scores weights that are not yet divided by their sum, which is returned. */
static float soften(float *scores, int count) {
  int whole = count & ~15;
  __mmask16 rest = (1u << (count - whole)) - 1;
  __m512 lowest = _mm512_set1_ps(-INFINITY), most = lowest, sum = _mm512_setzero_ps();
  for (int j = 0; j < whole; j += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + j));
  if (rest) most = _mm512_max_ps(most, _mm512_mask_loadu_ps(lowest, rest, scores + whole));
  __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int j = 0; j < whole; j += 16) {
    __m512 weight = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(scores + j), max));
    _mm512_storeu_ps(scores + j, weight);
    sum = _mm512_add_ps(sum, weight);
  }
  if (rest) {
    __m512 weight = exp_ps(_mm512_sub_ps(_mm512_mask_loadu_ps(lowest, rest, scores + whole), max));
    _mm512_mask_storeu_ps(scores + whole, rest, weight);
    sum = _mm512_mask_add_ps(sum, rest, sum, weight);
  }
  return _mm512_reduce_add_ps(sum);
}

/* Sums the values of 16 * `vectors` dimensions from `from` on. */
ALWAYS void mix(const Walk *walk, const void *values, const float *scores, const float *inverse, int from, float *out,
                const int group, const int vectors, const int type) {
  __m512 sum[4][4];
#pragma GCC unroll 4
  for (int g = 0; g < group; g++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sum[g][v] = _mm512_setzero_ps();
  for (int start = 0; start < walk->context; start += walk->block_size) {
    long at = block_at(walk, start) + from;
    int end = start + walk->block_size < walk->context ? start + walk->block_size : walk->context;
    for (int j = start; j < end; j++, at += walk->width)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) {
        __m512 value = load(values, at + 16 * v, type);
#pragma GCC unroll 4
        for (int g = 0; g < group; g++)
          sum[g][v] = _mm512_fmadd_ps(_mm512_set1_ps(scores[g * walk->room + j]), value, sum[g][v]);
      }
  }
#pragma GCC unroll 4
  for (int g = 0; g < group; g++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++)
      _mm512_storeu_ps(out + g * walk->dim + from + 16 * v, _mm512_mul_ps(sum[g][v], _mm512_set1_ps(inverse[g])));
}

ALWAYS void attend_group(const Walk *walk, const Layer *layer, const float *query, float *out, float *scores,
                         const int group, const int type) {
  float inverse[4];
  score(walk, layer, query, scores, group, type);
  for (int g = 0; g < group; g++) inverse[g] = 1 / soften(scores + g * walk->room, walk->context);
  int d = 0;
  for (; d + 64 <= walk->dim; d += 64) mix(walk, layer->values, scores, inverse, d, out, group, 4, type);
  for (; d < walk->dim; d += 16) mix(walk, layer->values, scores, inverse, d, out, group, 1, type);
}

ALWAYS void attend_heads(const Walk *walk, const Layer *layer, const float *query, float *out, float *scores, int heads,
                         const int type) {
  for (; heads >= 4; heads -= 4, query += 4 * walk->dim, out += 4 * walk->dim)
    attend_group(walk, layer, query, out, scores, 4, type);
  switch (heads) {
    case 3: attend_group(walk, layer, query, out, scores, 3, type); break;
    case 2: attend_group(walk, layer, query, out, scores, 2, type); break;
    case 1: attend_group(walk, layer, query, out, scores, 1, type); break;
  }
}

void attend(const Model *model, const Layer *layer, const Step *step, int row, int kv_head, const float *qkv, float *mixed,
            float *scores) {
  int heads = model->heads / model->kv_heads, at = kv_head * heads * model->head_dim;
  Walk walk = {
      .table = step->tables + (long)step->sequences[row] * step->table_width,
      .context = step->positions[row] + 1,
      .block_size = model->block_size,
      .dim = model->head_dim,
      .width = (long)model->kv_heads * model->head_dim,
      .head_at = (long)kv_head * model->head_dim,
      .room = score_room(model),
  };
  if (model->kv_type == BFLOAT16)
    attend_heads(&walk, layer, qkv + at, mixed + at, scores, heads, BFLOAT16);
  else
    attend_heads(&walk, layer, qkv + at, mixed + at, scores, heads, FLOAT32);
}
