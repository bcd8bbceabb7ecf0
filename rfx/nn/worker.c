// Every thread of the pool except the calling one runs this forever. It gets its number, from 1 on, instead of buffers.
static void work(float* const* number, Pool* pool) {
  const long thread = (long)number;
  for (;;) {
    if (thread < LOAD(pool->threads)) take_part(pool, (int)thread);
    for (long spins = 0; spins < SPINS && !TASKS_LEFT(LOAD(pool->state)); spins++) relax();
    if (thread < LOAD(pool->threads) && TASKS_LEFT(LOAD(pool->state))) continue;
    pool->lock(pool->mutex);
    ADD(pool->sleeping, 1);
    while (thread >= LOAD(pool->threads) || !TASKS_LEFT(LOAD(pool->state))) pool->wait(pool->condition, pool->mutex);
    ADD(pool->sleeping, -1);
    pool->unlock(pool->mutex);
  }
}
