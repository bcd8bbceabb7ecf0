// The threads that our kernels share. One thread calls a kernel, which gives its tasks to all threads with `run`. The
// other threads wait in `work`: they look for tasks for some microseconds, then sleep. Any thread may run any task, so
// no result may depend on the thread. A caller never waits for a thread that has not begun: a thread that wakes late
// finds no tasks.

typedef void Task(float* const* buffers, long task, int thread);

typedef struct {
  int (*lock)(void*), (*unlock)(void*), (*wait)(void*, void*), (*wake_all)(void*), (*yield)(void);  // of pthreads, which no header names here
  long threads;  // that may run tasks, the caller among them
  char mutex[128], condition[128];
  // The tasks at hand; they stay as they are while any is left or unfinished.
  __attribute__((aligned(64))) Task* task;
  float* const* buffers;
  long num_tasks;
  __attribute__((aligned(64))) unsigned long state;  // tasks left in the low 32 bits; above, how many times there were new ones
  __attribute__((aligned(64))) long finished;
  int busy, sleeping;
} Pool;

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define STORE(x, value) __atomic_store_n(&(x), value, __ATOMIC_SEQ_CST)
#define ADD(x, value) __atomic_add_fetch(&(x), value, __ATOMIC_SEQ_CST)
#define TASKS_LEFT(state) ((state) & 0xffffffffUL)
#define SPINS 1000  // some 15 us: longer than from one kernel of an update to the next

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void take_part(Pool* pool, int thread) {
  unsigned long state = LOAD(pool->state);
  while (TASKS_LEFT(state)) {
    Task* const task = pool->task;
    float* const* const buffers = pool->buffers;
    const long index = pool->num_tasks - (long)TASKS_LEFT(state);
    // If the state has not changed, these are its tasks, and this task is ours.
    if (!__atomic_compare_exchange_n(&pool->state, &state, state - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) continue;
    task(buffers, index, thread);
    ADD(pool->finished, 1);
    state = LOAD(pool->state);
  }
}

// Call task(buffers, i, thread) for every i below num_tasks, and return when all are done. thread < pool->threads, and
// no two tasks run with the same thread at the same time.
static void run(Pool* pool, Task* task, float* const* buffers, long num_tasks) {
  if (pool->threads < 2 || num_tasks < 2 || __atomic_exchange_n(&pool->busy, 1, __ATOMIC_SEQ_CST)) {  // or another thread's tasks are at hand
    for (long i = 0; i < num_tasks; i++) task(buffers, i, 0);
    return;
  }
  pool->task = task;
  pool->buffers = buffers;
  pool->num_tasks = num_tasks;
  STORE(pool->finished, 0);
  STORE(pool->state, (((pool->state >> 32) + 1) << 32) + (unsigned long)num_tasks);
  if (LOAD(pool->sleeping)) {
    pool->lock(pool->mutex);
    pool->wake_all(pool->condition);
    pool->unlock(pool->mutex);
  }
  take_part(pool, 0);
  for (long spins = 1; LOAD(pool->finished) < num_tasks; spins++) {
    if (spins % SPINS) relax(); else pool->yield();  // the last tasks' thread may be waiting for this core
  }
  STORE(pool->busy, 0);
}
