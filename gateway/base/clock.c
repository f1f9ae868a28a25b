// The clocks; see clock.h.
#include "gateway/base/clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

_Static_assert(sizeof(time_t) == 8, "times after January 2038");

#define EARLIEST (1577836800 * 1000000LL) // 2020: no clock that was set says less

static int64_t read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

int64_t clock_now(void) {
    return read_clock(CLOCK_REALTIME);
}

int64_t clock_ticks(void) {
    return read_clock(CLOCK_BOOTTIME);
}

bool clock_is_set(int64_t wall) {
    return wall >= EARLIEST;
}

static void read_boot(char *boot, size_t capacity) {
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file == NULL)
        return;
    if (fgets(boot, (int)capacity, file) == NULL)
        boot[0] = '\0';
    fclose(file);
    boot[strcspn(boot, "\n")] = '\0';
}

struct clock_mark clock_mark(void) {
    static struct clock_mark mark; // the start of the machine does not change while we run
    if (mark.boot[0] == '\0')
        read_boot(mark.boot, sizeof mark.boot);
    mark.ticks = clock_ticks();
    mark.wall = clock_now();
    return mark;
}

int64_t clock_carry_over(int64_t ticks, const struct clock_mark *then, const struct clock_mark *now) {
    if (then->boot[0] != '\0' && strcmp(then->boot, now->boot) == 0)
        return ticks;
    bool believed = clock_is_set(then->wall) && now->wall > then->wall;
    return now->ticks + (ticks - then->ticks) - (believed ? now->wall - then->wall : 0);
}
