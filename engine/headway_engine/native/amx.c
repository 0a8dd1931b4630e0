/* Products by the CPU's matrix unit (AMX). Our layout of a matrix is what its tiles want: 16 outputs by 16 groups.
 *
 * The unit adds 16 groups at a time to a sum in their order, for every row alike: a row's sums are the same whichever rows
 * are beside it. They are not those of product.c, which adds one group at a time. */
#define _GNU_SOURCE
#include "headway.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Registers 0 to 3 hold sums, [rows / 16][outputs / 16]; 4 and 5 hold rows, 6 and 7 outputs. */
enum { HIGH = 16, GROUPS = 16, MOST_ROWS = 2 * HIGH, LINE = 64, REGISTERS = 8, AHEAD = 4096 };

/* As the instruction reads it. */
typedef struct {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} Shapes;

/* Rows that this thread's registers are shaped for; 0: none. */
static _Thread_local int shaped;

static void shape(int rows) {
  if (shaped == rows) return;
  int first = rows < HIGH ? rows : HIGH;
  int heights[REGISTERS] = {first, first, rows - first, rows - first, first, rows - first, GROUPS, GROUPS};
  Shapes shapes = {.palette = 1};
  for (int i = 0; i < REGISTERS; i++) {
    shapes.rows[i] = heights[i];
    shapes.bytes[i] = heights[i] ? LINE : 0;
  }
  _tile_loadconfig(&shapes);
  shaped = rows;
}

void amx_leave(void) {
  if (shaped) _tile_release();
  shaped = 0;
}

bool headway_allow_amx(void) {
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 }; /* of asm/prctl.h and the XSAVE features */
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static void tile(const Product *p, int row, int rows, int column) {
  const Matrix *m = p->matrix;
  const long width = 4L * m->groups, stride = 2 * LINE;
  const uint8_t *w = m->weight + column * width, *x = p->x + row * width;
  const bool second = rows > HIGH;
  _Alignas(LINE) float sums[MOST_ROWS][32];
  shape(rows);
  _tile_zero(0);
  _tile_zero(1);
  if (second) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int group = 0; group < m->groups; group += GROUPS, w += GROUPS * stride, x += LINE) {
    /* A step's first rows bring the matrix into the caches; what the CPU fetches of itself ends at a page. */
    if (row == 0)
      for (int line = 0; line < GROUPS * stride; line += LINE) _mm_prefetch((const char *)w + AHEAD + line, _MM_HINT_T1);
    _tile_loadd(4, x, width);
    _tile_loadd(6, w, stride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + LINE, stride);
    _tile_dpbf16ps(1, 4, 7);
    if (!second) continue;
    _tile_loadd(5, x + HIGH * width, width);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums[0], sizeof sums[0]);
  _tile_stored(1, sums[0] + 16, sizeof sums[0]);
  if (second) {
    _tile_stored(2, sums[HIGH], sizeof sums[0]);
    _tile_stored(3, sums[HIGH] + 16, sizeof sums[0]);
  }
  for (int r = 0; r < rows; r++) put(p, row + r, column, _mm512_load_ps(sums[r]), _mm512_load_ps(sums[r] + 16));
}

void amx_tiles(const Product *p, int row, int end, int column) {
  for (int rows; row < end; row += rows) {
    rows = end - row < MOST_ROWS ? end - row : MOST_ROWS;
    tile(p, row, rows, column);
  }
}
