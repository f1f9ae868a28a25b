// A monotonic clock that does not see the machine stand still; see calm_clock.h.
#include "tests/calm_clock.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST   20000000 // nanoseconds that pass between two looks, at most
#define SECOND 1000000000
#define DISK_TURNS                                                                                           \
    10 // turns of the loop in a row in which the disk may have something to do, until time waits for it
#define DEADLINE 15 // seconds of the system's clock, for the disk

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_calm;
static int64_t speed = 4; // times that of the system's clock: tests need not wait as long
static int64_t seen;      // nanoseconds of the system's clock at the last look; 0: none yet
static int64_t now;       // nanoseconds of the calm one

void calm_clock_start(void) {
    pthread_mutex_lock(&lock);
    is_calm = true;
    pthread_mutex_unlock(&lock);
}

void calm_clock_hurry(unsigned times) {
    pthread_mutex_lock(&lock);
    speed = times;
    pthread_mutex_unlock(&lock);
}

static void turn(uv_loop_t *loop) {
    uv_run(loop, UV_RUN_NOWAIT);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

// Time stands still until the disk has done what it was given.
static void wait_for_disk(uv_loop_t *loop) {
    int64_t before = speed;
    calm_clock_hurry(0);
    for (time_t end = time(NULL) + DEADLINE; loop->active_reqs.count > 0 && time(NULL) < end;)
        turn(loop);
    calm_clock_hurry((unsigned)before);
}

void calm_clock_step(uv_loop_t *loop) {
    static unsigned disk_turns; // over several calls
    turn(loop);
    disk_turns = loop->active_reqs.count > 0 ? disk_turns + 1 : 0;
    if (disk_turns > DISK_TURNS)
        wait_for_disk(loop);
}

static void make_calm(struct timespec *time) {
    pthread_mutex_lock(&lock);
    int64_t system = (int64_t)time->tv_sec * SECOND + time->tv_nsec;
    int64_t passed = (system - seen) * speed;
    if (seen == 0)
        now = system;
    else if (passed > 0)
        now += passed < MOST ? passed : MOST;
    if (system > seen)
        seen = system;
    *time = (struct timespec){.tv_sec = now / SECOND, .tv_nsec = (long)(now % SECOND)};
    pthread_mutex_unlock(&lock);
}

#ifdef SYS_clock_gettime64 // where a long has 32 bits; time_t has 64 all the same (_TIME_BITS)
#define CLOCK_CALL SYS_clock_gettime64
#else
#define CLOCK_CALL SYS_clock_gettime
#endif

// In front of the C library's, for the whole program.
int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(CLOCK_CALL, clock, time);
    if (result == 0 && is_calm && (clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE))
        make_calm(time);
    return result;
}

#ifdef SYS_clock_gettime64
// There, a library that was built with a time_t of 32 bits, as Debian 12's libuv, asks by the name that ours does not have.
struct short_time {
    int32_t seconds, nanoseconds;
};

int clock_gettime_short(clockid_t clock, struct short_time *time) __asm__("clock_gettime");

int clock_gettime_short(clockid_t clock, struct short_time *time) {
    struct timespec precise;
    int result = clock_gettime(clock, &precise);
    if (result == 0)
        *time =
            (struct short_time){.seconds = (int32_t)precise.tv_sec, .nanoseconds = (int32_t)precise.tv_nsec};
    return result;
}
#endif
