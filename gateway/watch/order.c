// In which order `trackbus watch` shows the devices; see order.h.
#include "gateway/watch/order.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"

struct choice {
    enum order order;
    int sign; // -1: reversed
};

static int by_number(double a, double b, int sign) {
    if (isnan(a) || isnan(b))
        return isnan(a) - isnan(b);
    return sign * ((a > b) - (a < b));
}

static int by_text(const char *a, const char *b, int sign) {
    if (*a == '\0' || *b == '\0')
        return (*a == '\0') - (*b == '\0');
    return sign * strcmp(a, b);
}

static double number_of(const struct fleet_device *device, enum order order) {
    switch (order) {
    case ORDER_HEARD:
        return device->heard > 0 ? -(double)device->heard : NAN;
    case ORDER_CONNECTION:
        return device->connection != FLEET_UNKNOWN ? (double)device->connection : NAN;
    case ORDER_SPEED:
        return -device->speed;
    default:
        return device->battery;
    }
}

// A name that only repeats the ident is none.
static const char *name_of(const struct fleet_device *device) {
    return strcmp(device->name, device->ident) != 0 ? device->name : "";
}

static int compare(const void *left, const void *right, void *context) {
    const struct fleet_device *a = *(const struct fleet_device *const *)left;
    const struct fleet_device *b = *(const struct fleet_device *const *)right;
    const struct choice *choice = context;
    int result = 0;
    if (choice->order == ORDER_NAME)
        result = by_text(name_of(a), name_of(b), choice->sign);
    else if (choice->order != ORDER_IDENT)
        result = by_number(number_of(a, choice->order), number_of(b, choice->order), choice->sign);
    return result != 0                    ? result
           : choice->order == ORDER_IDENT ? choice->sign * strcmp(a->ident, b->ident)
                                          : strcmp(a->ident, b->ident);
}

const struct fleet_device **order_devices(struct fleet *fleet, enum order order, bool reversed,
                                          size_t *count) {
    struct choice choice = {.order = order, .sign = reversed ? -1 : 1};
    *count = 0;
    if (fleet->count == 0)
        return NULL;
    const struct fleet_device **devices = must_have(calloc(fleet->count, sizeof *devices));
    for (const struct fleet_device *device = fleet_newest(fleet); device != NULL; device = device->next)
        devices[(*count)++] = device;
    if (order != ORDER_HEARD || reversed) // they are in that one already
        qsort_r(devices, *count, sizeof *devices, compare, &choice);
    return devices;
}
