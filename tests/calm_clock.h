// A monotonic clock that does not see the machine stand still: for tests of what is told apart by time.
//
// The processes of a busy machine stop for half a second at a time. To a test whose program runs in the same
// process that looks like a broker that answers late. With this clock no more than some milliseconds pass between
// two looks at it, however long the machine stood still between them. It runs four times as fast as the system's
// unless told otherwise.
#ifndef TESTS_CALM_CLOCK_H
#define TESTS_CALM_CLOCK_H

#include <uv.h>

// From now on this process has it, its libraries too. There is no way back: each test is a process of its own.
void calm_clock_start(void);

// From now on it runs so many times as fast as the system's: for minutes in which little happens. 0: it stands still.
void calm_clock_hurry(unsigned times);

// One turn of the loop, and a millisecond of rest. With this clock in place of uv_run(loop, UV_RUN_ONCE), which
// would wait for time that is not counted. Where the disk needs long, time waits for it: it would be seconds by this clock.
void calm_clock_step(uv_loop_t *loop);

#endif
