// Times and ages; see when.h.
#include "gateway/fleet/when.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

const char *when_time(int64_t time, char out[WHEN_MAX]) {
    time_t seconds = (time_t)(time / 1000000);
    struct tm parts;
    if (localtime_r(&seconds, &parts) == NULL || strftime(out, WHEN_MAX, "%Y-%m-%dT%H:%M:%S", &parts) == 0)
        strcpy(out, "-");
    return out;
}

const char *when_age(int64_t microseconds, char out[WHEN_MAX]) {
    static const struct {
        long long seconds;
        const char *name;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    long long seconds = microseconds > 0 ? microseconds / 1000000 : 0;
    size_t i = 0;
    while (i < 3 && seconds < units[i].seconds)
        i++;
    snprintf(out, WHEN_MAX, "%lld %s", seconds / units[i].seconds, units[i].name);
    return out;
}
