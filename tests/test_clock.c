// Deadlines that outlive the program: what is left of them after a restart of the program or of the machine.
#include <criterion/criterion.h>

#include "gateway/base/clock.h"
#include "gateway/commands/command.h"

#define S    1000000LL
#define Y26  (1795000000 * S) // 2026, by the wall clock
#define Y70  (100 * S)        // 1970: nobody has set it
#define YEAR (31536000 * S)

static const struct carried {
    const char *what, *boot; // of the mark then; the one of now is "a"
    int64_t then_ticks, then_wall, now_ticks, now_wall;
    int64_t left; // of 1,000 s
} carried[] = {
    {"the program restarts", "a", 500 * S, Y26, 700 * S, Y26 + 200 * S, 800 * S},
    {"the same, the clock steps back meanwhile", "a", 500 * S, Y26, 700 * S, Y26 - 40 * S, 800 * S},
    {"the same, the time is heard meanwhile", "a", 500 * S, Y70, 700 * S, Y26, 800 * S},
    {"the machine restarts", "b", 5000 * S, Y26, 30 * S, Y26 + 300 * S, 700 * S},
    {"the same, and has not heard the time", "b", 5000 * S, Y26, 30 * S, Y70, 1000 * S},
    {"the same, had not heard it before either", "b", 5000 * S, Y70, 30 * S, Y70 + 9 * S, 1000 * S},
    {"the same, and has heard it now", "b", 5000 * S, Y70, 30 * S, Y26, 1000 * S},
    {"the same, with an older time", "b", 5000 * S, Y26, 30 * S, Y26 - YEAR, 1000 * S},
    {"the machine is off for too long", "b", 5000 * S, Y26, 30 * S, Y26 + 2000 * S, -1000 * S},
    {"nobody knows which start it was", "", 500 * S, Y26, 700 * S, Y26 + 200 * S, 800 * S},
};

Test(clock, deadlines_are_carried_over) {
    for (size_t i = 0; i < sizeof carried / sizeof carried[0]; i++) {
        const struct carried *it = &carried[i];
        struct clock_mark then = {.ticks = it->then_ticks, .wall = it->then_wall};
        struct clock_mark now = {.boot = "a", .ticks = it->now_ticks, .wall = it->now_wall};
        strcpy(then.boot, it->boot);
        int64_t at = clock_carry_over(it->then_ticks + 1000 * S, &then, &now);
        cr_assert(at - it->now_ticks == it->left, "%s: %lld s are left, expected %lld", it->what,
                  (long long)((at - it->now_ticks) / S), (long long)(it->left / S));
    }
}

// An entry of another gateway, or one that comes back from the broker: it has wall-clock times alone.
static const struct read {
    const char *what;
    int64_t created, expires, now, left;
} reads[] = {
    {"both clocks are right", Y26, Y26 + 100 * S, Y26 + 30 * S, 70 * S},
    {"it has expired", Y26, Y26 + 100 * S, Y26 + 130 * S, -30 * S},
    {"it was written in 1970", Y70, Y70 + 100 * S, Y26, 100 * S},
    {"it is read in 1970", Y26, Y26 + 100 * S, Y70, 100 * S},
    {"our clock is behind", Y26, Y26 + 100 * S, Y26 - 40 * S, 100 * S},
};

Test(clock, deadlines_of_an_entry) {
    for (size_t i = 0; i < sizeof reads / sizeof reads[0]; i++) {
        struct command command = {.created = reads[i].created, .expires = reads[i].expires};
        struct clock_mark now = {.ticks = 5000 * S, .wall = reads[i].now};
        command_set_deadlines(&command, &now);
        cr_assert(command.expires_at - now.ticks == reads[i].left, "%s: %lld s", reads[i].what,
                  (long long)((command.expires_at - now.ticks) / S));
    }
}

Test(clock, ticks_go_forward_and_say_which_start_they_are_of) {
    struct clock_mark one = clock_mark(), other = clock_mark();
    cr_assert(other.ticks >= one.ticks && one.ticks > 0);
    cr_assert(strlen(one.boot) == 36 && strcmp(one.boot, other.boot) == 0);
    cr_assert(clock_is_set(one.wall) && !clock_is_set(Y70));
}
