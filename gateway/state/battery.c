// How full a battery is; see battery.h.
#include "gateway/state/battery.h"

#include <math.h>
#include <stddef.h>

static double between(const struct codec_battery *low, const struct codec_battery *high, double millivolts) {
    double part = (millivolts - low->millivolts) / (double)(high->millivolts - low->millivolts);
    return low->percent + part * (double)(high->percent - low->percent);
}

int battery_percent(const struct codec_battery *points, double volts) {
    const struct codec_battery *point = points;
    double millivolts = volts * 1000;
    if (point == NULL || isnan(volts))
        return -1;
    if (millivolts <= point->millivolts)
        return 0;
    while (point->percent < 100 && point[1].millivolts < millivolts)
        point++;
    return point->percent >= 100 ? 100 : (int)lround(between(point, point + 1, millivolts));
}
