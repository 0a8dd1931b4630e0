/* Products of rows with a matrix whose layout lets one vector hold a group of inputs of 16 outputs.
 *
 * A tile is 32 outputs times some rows, whose sums stay in registers while the matrix passes once. Each sum adds its
 * inputs in their order, whatever the number of rows. */
#include "headway.h"

#include <math.h>
#include <string.h>

#define ALWAYS static inline __attribute__((always_inline))

/* int8 has two sums: the whole one, and that of a block. */
enum { TILE = 32, MOST_ROWS = 8, MOST_INT8_ROWS = 6, BLOCK_GROUPS = BLOCK / 4, ROW_BLOCK = 128 };
/* Lines of a tile that hold a block of inputs. With fewer rows than FEW_ROWS a product only waits for the matrix, and what the
 * CPU fetches of itself is enough. */
enum { LINE = 64, BLOCK_LINES = BLOCK_GROUPS * 4 * TILE / LINE, FEW_ROWS = 5 };

static void pack_block(const float *from, int count, int8_t *x, Block *block) {
  __m512 left = _mm512_loadu_ps(from), right = count > 16 ? _mm512_loadu_ps(from + 16) : _mm512_setzero_ps();
  float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(left), _mm512_abs_ps(right)));
  /* Bytes cannot say that they are not numbers; their scale can. */
  bool bad = _mm512_cmp_ps_mask(left, left, _CMP_UNORD_Q) | _mm512_cmp_ps_mask(right, right, _CMP_UNORD_Q);
  __m512 inverse = _mm512_set1_ps(max > 0 ? 127 / max : 0);
  __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(left, inverse));
  __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(right, inverse));
  _mm_storeu_si128((void *)x, _mm512_cvtsepi32_epi8(low));
  _mm_storeu_si128((void *)(x + 16), _mm512_cvtsepi32_epi8(high));
  *block = (Block){bad ? NAN : max / 127, -128 * _mm512_reduce_add_epi32(_mm512_add_epi32(low, high))};
}

void pack_row(const float *from, int count, int type, uint8_t *x, Block *blocks) {
  if (type == INT8) {
    for (int i = 0; i < count; i += BLOCK) pack_block(from + i, count - i, (int8_t *)x + i, blocks + i / BLOCK);
    return;
  }
  int size = type == BFLOAT16 ? 2 : 4;
  for (int i = 0; i < count; i += 16) {
    __m512 v = _mm512_loadu_ps(from + i);
    if (type == BFLOAT16)
      store_bf16(x + 2L * i, v);
    else
      _mm512_storeu_ps(x + 4L * i, v);
  }
  /* The matrix has zeros there, but zero times NaN is NaN, and the place may have held anything. */
  if (count % BLOCK) memset(x + (long)size * count, 0, 16 * size);
}

ALWAYS __m512i dot(__m512i sum, __m512i x, __m512i w, const int type) {
  if (type == INT8) return _mm512_dpbusd_epi32(sum, w, x);
  if (type == BFLOAT16) return (__m512i)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)w);
  return (__m512i)_mm512_fmadd_ps((__m512)x, (__m512)w, (__m512)sum);
}

/* Rows `row .. row + rows - 1` of outputs `column .. column + 31`. With each block of inputs, `lines` lines from `ahead` on come
 * into the cache. */
ALWAYS void tile(const Product *p, int row, int column, const char *ahead, int lines, const int rows, const int type) {
  const Matrix *m = p->matrix;
  const long width = 4L * m->groups;
  const uint8_t *w = m->weight + column * width, *x = p->x + row * width;
  const int blocks = m->groups / BLOCK_GROUPS;
  const Block *block = p->blocks + (long)row * blocks;
  __m512i sum[MOST_ROWS][2];
  __m512 total[MOST_ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
    sum[r][0] = sum[r][1] = _mm512_setzero_si512();
    total[r][0] = total[r][1] = _mm512_setzero_ps();
  }
  for (int b = 0; b < blocks; b++, block++, ahead += LINE * lines) {
    if (type == INT8)
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) sum[r][0] = sum[r][1] = _mm512_set1_epi32(block[r * blocks].shift);
    for (int group = 0; group < BLOCK_GROUPS; group++, w += 4 * TILE, x += 4) {
      for (int line = group; line < lines; line += BLOCK_GROUPS) _mm_prefetch(ahead + LINE * line, _MM_HINT_T1);
      __m512i left = _mm512_loadu_si512(w), right = _mm512_loadu_si512(w + 64);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) {
        __m512i inputs = _mm512_set1_epi32(*(const int32_t *)(x + r * width));
        sum[r][0] = dot(sum[r][0], inputs, left, type);
        sum[r][1] = dot(sum[r][1], inputs, right, type);
      }
    }
    if (type == INT8)
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) {
        __m512 scale = _mm512_set1_ps(block[r * blocks].scale);
        total[r][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][0]), scale, total[r][0]);
        total[r][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][1]), scale, total[r][1]);
      }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
    if (type != INT8) {
      put(p, row + r, column, (__m512)sum[r][0], (__m512)sum[r][1]);
      continue;
    }
    put(p, row + r, column, _mm512_mul_ps(total[r][0], _mm512_loadu_ps(m->scale + column)),
        _mm512_mul_ps(total[r][1], _mm512_loadu_ps(m->scale + column + 16)));
  }
}

/* The rows in as few passes over the matrix as registers allow, all about as high. Each pass fetches its share of the next 32
 * outputs' weights: so memory and the vector units work at the same time, which the CPU's own guesses do not achieve. */
ALWAYS void tiles(const Product *p, int row, int end, int column, const int type) {
  const int most = type == INT8 ? MOST_INT8_ROWS : MOST_ROWS;
  const long width = 4L * p->matrix->groups;
  int passes = (end - row + most - 1) / most;
  const int lines = end - row < FEW_ROWS ? 0 : (BLOCK_LINES + passes - 1) / passes;
  const char *ahead = (const char *)p->matrix->weight + (column + TILE) * width;
  for (; passes > 0; passes--, ahead += LINE * lines * (p->matrix->groups / BLOCK_GROUPS)) {
    int rows = (end - row + passes - 1) / passes;
    switch (rows) { /* int8 never has more than 6 */
      case 8: tile(p, row, column, ahead, lines, most < 8 ? most : 8, type); break;
      case 7: tile(p, row, column, ahead, lines, most < 7 ? most : 7, type); break;
      case 6: tile(p, row, column, ahead, lines, 6, type); break;
      case 5: tile(p, row, column, ahead, lines, 5, type); break;
      case 4: tile(p, row, column, ahead, lines, 4, type); break;
      case 3: tile(p, row, column, ahead, lines, 3, type); break;
      case 2: tile(p, row, column, ahead, lines, 2, type); break;
      case 1: tile(p, row, column, ahead, lines, 1, type); break;
    }
    row += rows;
  }
}

static void tiles_float32(const Product *p, int row, int end, int column) { tiles(p, row, end, column, FLOAT32); }
static void tiles_bfloat16(const Product *p, int row, int end, int column) { tiles(p, row, end, column, BFLOAT16); }
static void tiles_int8(const Product *p, int row, int end, int column) { tiles(p, row, end, column, INT8); }

static void (*kernel(const Product *p))(const Product *, int, int, int) {
  if (p->type == INT8) return tiles_int8;
  if (p->type == FLOAT32) return tiles_float32;
  return p->amx ? amx_tiles : tiles_bfloat16;
}

void product(Pool *pool, const Product *p) {
  void (*compute)(const Product *, int, int, int) = kernel(p);
  int columns = p->matrix->outputs / TILE, blocks = (p->rows + ROW_BLOCK - 1) / ROW_BLOCK, items = columns * blocks;
  /* Nobody fetches the first column of a share ahead, and after its last one another thread's is fetched: so few shares. */
  int share = pool_share(pool, items) * (compute == amx_tiles ? 1 : 2);
  for (int first; (first = pool_claim(pool, share)) < items;)
    for (int item = first; item < items && item < first + share; item++) {
      int row = item / columns * ROW_BLOCK;
      compute(p, row, row + ROW_BLOCK < p->rows ? row + ROW_BLOCK : p->rows, item % columns * TILE);
    }
}
