// What a service manager hears of the gateway (systemd, Type=notify): that it is ready, that it stops, and, where it wants to be told,
// that the loop still turns. A worker of `--workers` tells its supervisor that instead, which tells the manager for all.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

// Signs of life of a worker, in memory that it shares with its supervisor.
struct sign {
    _Atomic bool ready;    // the worker serves
    _Atomic uint32_t last; // service_clock() of the last one
    uint64_t interval;     // milliseconds from one to the next; 0: none but the first
};

struct service {
    uv_timer_t timer;
    struct sign *sign; // of a worker; NULL: the manager itself is told
};

// Milliseconds, the same in all processes; begins again at 0 after 49 days, so look at differences alone.
uint32_t service_clock(void);

// Milliseconds from the last sign of a worker until now, which is by service_clock(); 0 when it came after that.
uint32_t service_silence(const struct sign *sign, uint32_t now);

// Tells the manager one line such as "READY=1", where there is one (NOTIFY_SOCKET).
void service_tell(const char *line);

// Within how many milliseconds the manager wants the next sign of life of this process; 0: it wants none.
uint64_t service_patience(void);

// The gateway serves; from now on the loop gives signs of life, until service_end().
void service_ready(struct service *service, uv_loop_t *loop, struct sign *sign);
void service_stopping(struct service *service);
// Closes what belongs to the loop.
void service_end(struct service *service);
