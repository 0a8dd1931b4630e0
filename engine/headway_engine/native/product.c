/* Products of rows with a matrix whose layout lets one vector hold a group of inputs of 16 outputs.
 *
 * A tile is 32 outputs times up to 8 rows: 16 vectors of sums stay in registers while the matrix passes once. Each sum
 * adds its inputs in their order, whatever the number of rows. */
#include "headway.h"

#include <math.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

enum { TILE = 32, MOST_ROWS = 8, ROW_BLOCK = 128, CLAIMS_PER_THREAD = 4 };

void pack_row(const float *from, int count, int type, uint8_t *x, float *scale) {
  int size = type == INT8 ? 1 : type == BFLOAT16 ? 2 : 4;
  /* The matrix has zeros there, but zero times NaN is NaN, and the place may have held anything. */
  if (count % TILE) memset(x + (long)size * count, 0, 16 * size);
  if (type != INT8) {
    for (int i = 0; i < count; i += 16) {
      __m512 v = _mm512_loadu_ps(from + i);
      if (type == BFLOAT16)
        store_bf16(x + 2L * i, v);
      else
        _mm512_storeu_ps(x + 4L * i, v);
    }
    return;
  }
  __m512 most = _mm512_setzero_ps();
  __mmask16 bad = 0;
  for (int i = 0; i < count; i += 16) {
    __m512 v = _mm512_loadu_ps(from + i);
    bad |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    most = _mm512_max_ps(most, _mm512_abs_ps(v));
  }
  float max = _mm512_reduce_max_ps(most);
  /* Bytes cannot say that a row is not a number; its scale can. */
  *scale = bad ? NAN : max / 127;
  __m512 inverse = _mm512_set1_ps(max > 0 ? 127 / max : 0);
  for (int i = 0; i < count; i += 16) {
    __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(from + i), inverse));
    q = _mm512_max_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), _mm512_setzero_si512());
    _mm_storeu_si128((void *)(x + i), _mm512_cvtusepi32_epi8(q));
  }
}

ALWAYS __m512i dot(__m512i sum, __m512i x, __m512i w, const int type) {
  if (type == INT8) return _mm512_dpbusd_epi32(sum, x, w);
  if (type == BFLOAT16) return (__m512i)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
  return (__m512i)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sum);
}

/* Rows `row .. row + rows - 1` of outputs `column .. column + 31`. */
ALWAYS void tile(const Product *p, int row, int column, const int rows, const int type) {
  const Matrix *m = p->matrix;
  const long width = 4L * m->groups;
  const uint8_t *w = m->weight + column * width, *x = p->x + row * width;
  __m512i sum[MOST_ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_setzero_si512();
  for (int group = 0; group < m->groups; group++, w += 4 * TILE, x += 4) {
    __m512i left = _mm512_loadu_si512(w), right = _mm512_loadu_si512(w + 64);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      __m512i inputs = _mm512_set1_epi32(*(const int32_t *)(x + r * width));
      sum[r][0] = dot(sum[r][0], inputs, left, type);
      sum[r][1] = dot(sum[r][1], inputs, right, type);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      int n = column + 16 * half;
      float *out = p->out + (row + r) * p->stride + n;
      __m512 v = (__m512)sum[r][half];
      if (type == INT8) {
        v = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum[r][half], _mm512_loadu_si512(m->offset + n)));
        v = _mm512_mul_ps(v, _mm512_mul_ps(_mm512_set1_ps(p->scales[row + r]), _mm512_loadu_ps(m->scale + n)));
      }
      if (m->bias) v = _mm512_add_ps(v, _mm512_loadu_ps(m->bias + n));
      if (p->add) v = _mm512_add_ps(v, _mm512_loadu_ps(out));
      _mm512_storeu_ps(out, v);
    }
}

ALWAYS void tiles(const Product *p, int row, int end, int column, const int type) {
  for (; row + 8 <= end; row += 8) tile(p, row, column, 8, type);
  switch (end - row) {
    case 7: tile(p, row, column, 7, type); break;
    case 6: tile(p, row, column, 6, type); break;
    case 5: tile(p, row, column, 5, type); break;
    case 4: tile(p, row, column, 4, type); break;
    case 3: tile(p, row, column, 3, type); break;
    case 2: tile(p, row, column, 2, type); break;
    case 1: tile(p, row, column, 1, type); break;
  }
}

static void tiles_float32(const Product *p, int row, int end, int column) { tiles(p, row, end, column, FLOAT32); }
static void tiles_bfloat16(const Product *p, int row, int end, int column) { tiles(p, row, end, column, BFLOAT16); }
static void tiles_int8(const Product *p, int row, int end, int column) { tiles(p, row, end, column, INT8); }

void product(Pool *pool, const Product *p) {
  void (*compute)(const Product *, int, int, int) =
      p->type == INT8 ? tiles_int8 : p->type == BFLOAT16 ? tiles_bfloat16 : tiles_float32;
  int columns = p->matrix->outputs / TILE, blocks = (p->rows + ROW_BLOCK - 1) / ROW_BLOCK, items = columns * blocks;
  int share = items / (CLAIMS_PER_THREAD * pool_threads(pool));
  if (share < 1) share = 1;
  for (int first; (first = pool_claim(pool, share)) < items;)
    for (int item = first; item < items && item < first + share; item++) {
      int row = item / columns * ROW_BLOCK;
      compute(p, row, row + ROW_BLOCK < p->rows ? row + ROW_BLOCK : p->rows, item % columns * TILE);
    }
}
