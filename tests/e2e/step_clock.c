// A wall clock that a test steps, preloaded into the real program: CLOCK_REALTIME is off by the microseconds that
// the file STEP_CLOCK_FILE holds, as 8 bytes. All other clocks are right, as they are when NTP steps one.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now);
int gettimeofday(struct timeval *now, void *zone);
time_t time(time_t *seconds);

#ifdef SYS_clock_gettime64 // where a long has 32 bits; time_t has 64 all the same (_TIME_BITS)
#define CLOCK_CALL SYS_clock_gettime64
#else
#define CLOCK_CALL SYS_clock_gettime
#endif

static int64_t offset(void) {
    static const volatile int64_t *step;
    const char *path = step == NULL ? getenv("STEP_CLOCK_FILE") : NULL;
    if (path != NULL) {
        int file = open(path, O_RDONLY | O_CLOEXEC);
        void *memory = file >= 0 ? mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, file, 0) : MAP_FAILED;
        close(file);
        step = memory != MAP_FAILED ? memory : NULL;
    }
    return step != NULL ? *step : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(CLOCK_CALL, clock, now);
    if (result != 0 || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE))
        return result;
    long nanoseconds = now->tv_nsec + (long)(offset() % 1000000) * 1000;
    now->tv_sec += offset() / 1000000 + (nanoseconds < 0 ? -1 : nanoseconds / 1000000000);
    now->tv_nsec = nanoseconds < 0 ? nanoseconds + 1000000000 : nanoseconds % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    *now = (struct timeval){.tv_sec = precise.tv_sec, .tv_usec = precise.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (seconds != NULL)
        *seconds = precise.tv_sec;
    return precise.tv_sec;
}
