// Whose values, messages or commands; see flespi_choice.h.
#include "gateway/web/flespi_choice.h"

#include <stdlib.h>

#include "gateway/base/memory.h"
#include "gateway/web/flespi_walk.h"

// Of a request whose devices are not known yet.
struct choice {
    enum flespi_note note;
    struct flespi_walk *walk;
};

static void free_choice(void *context) {
    struct choice *choice = context;
    flespi_walk_free(choice->walk);
    free(choice);
}

static void *note_of(const struct flespi_asked *asked, enum flespi_note wanted) {
    enum flespi_note *note = http_note(asked->call->request);
    return note != NULL && *note == wanted ? note : NULL;
}

void *flespi_waits(const struct flespi_asked *asked) {
    return note_of(asked, FLESPI_WAITS);
}

static bool collect(void *context, const struct fleet_device *device) {
    struct flespi_devices *devices = context;
    if (devices->count < FLESPI_DEVICES_MAX)
        devices->device[devices->count] = device;
    return ++devices->count <= FLESPI_DEVICES_MAX;
}

static bool are_few(const struct flespi_devices *devices, struct http_answer *answer) {
    if (devices->count <= FLESPI_DEVICES_MAX)
        return true;
    *answer = flespi_fault(400,
                           "these are more than %d devices: ask for at most %d at once, such as a page of "
                           "/gw/devices/all?fields=id&limit=%d",
                           FLESPI_DEVICES_MAX, FLESPI_DEVICES_MAX, FLESPI_DEVICES_MAX);
    return false;
}

static struct choice *begin(struct flespi_asked *asked) {
    struct flespi_walk *walk =
        flespi_walk_new(asked->call->parts->fleet, &asked->selector[0], &(struct flespi_list){0});
    if (walk == NULL)
        return NULL;
    struct choice *choice = must_have(calloc(1, sizeof *choice));
    *choice = (struct choice){FLESPI_CHOOSES, walk};
    http_set_note(asked->call->request, choice, free_choice);
    return choice;
}

static bool choose_in_portions(struct flespi_asked *asked, struct flespi_devices *devices,
                               struct http_answer *answer) {
    struct choice *choice = note_of(asked, FLESPI_CHOOSES);
    if (choice == NULL && (choice = begin(asked)) == NULL) {
        *answer = flespi_fault(503, "too many are looking for devices; try again");
        return false;
    }
    if (!flespi_walk_choose(choice->walk)) {
        *answer = HTTP_SOON;
        return false;
    }
    flespi_walk_chosen(choice->walk, collect, devices);
    return are_few(devices, answer);
}

bool flespi_choose(struct flespi_asked *asked, struct flespi_devices *devices, struct http_answer *answer) {
    struct fleet *fleet = asked->call->parts->fleet;
    const struct selector *selector = &asked->selector[0];
    bool begun = note_of(asked, FLESPI_CHOOSES) != NULL;
    devices->count = 0;
    if (begun || (selector->kind != SELECT_IDS && fleet->count > FLESPI_AT_ONCE_MAX))
        return choose_in_portions(asked, devices, answer);
    flespi_each_device(fleet, selector, &asked->list, collect, devices);
    return are_few(devices, answer);
}
