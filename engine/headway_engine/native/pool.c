/* Threads that work on one step together.
 *
 * A thread that waits spins for some microseconds, which is longer than balanced phases differ, and then sleeps: where
 * somebody else holds the core of the one that is waited for, spinning would keep him there. */
#define _GNU_SOURCE
#include "headway.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* About 30 microseconds. */
enum { SPINS = 2000, CACHE_LINE = 64, CLAIMS_PER_THREAD = 4 };

struct Pool {
  _Alignas(CACHE_LINE) atomic_int next; /* item of this phase; alone in its line, since all threads write it */
  _Alignas(CACHE_LINE) atomic_int generation;
  atomic_int arrived, sleepers;
  _Alignas(CACHE_LINE) atomic_int threads;
  bool stopping;
  void (*work)(void *, int);
  void *argument;
  pthread_t *workers;
};

typedef struct {
  Pool *pool;
  int thread;
} Start;

int pool_claim(Pool *pool, int count) { return atomic_fetch_add_explicit(&pool->next, count, memory_order_relaxed); }

int pool_share(Pool *pool, int count) {
  int share = count / (CLAIMS_PER_THREAD * pool->threads);
  return share > 1 ? share : 1;
}

void pool_meet(Pool *pool) {
  int generation = atomic_load(&pool->generation);
  if (atomic_fetch_add(&pool->arrived, 1) + 1 == pool->threads) {
    atomic_store(&pool->arrived, 0);
    atomic_store(&pool->next, 0);
    atomic_fetch_add(&pool->generation, 1);
    if (atomic_load(&pool->sleepers))
      syscall(SYS_futex, &pool->generation, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    return;
  }
  for (int spin = 0; spin < SPINS; spin++) {
    if (atomic_load_explicit(&pool->generation, memory_order_acquire) != generation) return;
    _mm_pause();
  }
  atomic_fetch_add(&pool->sleepers, 1);
  while (atomic_load(&pool->generation) == generation)
    syscall(SYS_futex, &pool->generation, FUTEX_WAIT_PRIVATE, generation, NULL, NULL, 0);
  atomic_fetch_sub(&pool->sleepers, 1);
}

static void *worker(void *given) {
  Start start = *(Start *)given;
  free(given);
  for (;;) {
    pool_meet(start.pool);
    if (start.pool->stopping) return NULL;
    start.pool->work(start.pool->argument, start.thread);
    pool_meet(start.pool);
  }
}

Pool *pool_start(int threads, void (*work)(void *, int), void *argument) {
  Pool *pool = aligned_alloc(CACHE_LINE, (sizeof(Pool) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
  if (!pool) return NULL;
  *pool = (Pool){.threads = 1, .work = work, .argument = argument};
  pool->workers = calloc(threads, sizeof(pthread_t));
  for (int thread = 1; pool->workers && thread < threads; thread++) {
    Start *start = malloc(sizeof(Start));
    if (!start) break;
    *start = (Start){pool, thread};
    /* Before the thread exists: it waits at once, for as many as there will be. */
    pool->threads = thread + 1;
    if (pthread_create(&pool->workers[thread], NULL, worker, start)) {
      pool->threads = thread;
      free(start);
      break;
    }
  }
  return pool;
}

void pool_run(Pool *pool) {
  pool_meet(pool);
  pool->work(pool->argument, 0);
  pool_meet(pool);
}

void pool_stop(Pool *pool) {
  pool->stopping = true;
  pool_meet(pool);
  for (int thread = 1; thread < pool->threads; thread++) pthread_join(pool->workers[thread], NULL);
  free(pool->workers);
  free(pool);
}
