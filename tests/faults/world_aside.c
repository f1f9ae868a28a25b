// Reports that the broker does not take, and what the gateway set aside; see world.h.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/faults/world_parts.h"

#define LISTED_MAX 4000 // messages in the store

const char *world_access_list(struct world *world) {
    static char text[4096];
    int length = sprintf(text, "topic readwrite #\n");
    for (int i = 0; i < world->setup.forbidden; i++)
        length += sprintf(text + length, "topic deny trackbus/message/gw/devices/860000000000%03d\n", i);
    return text;
}

// --- sending ---

static void send_one(struct world *world, struct device *device) {
    cr_assert(device->last < SEQUENCE_MAX);
    device->flags[++device->last] |= UNWELCOME;
    world->counts.refused++;
}

void world_send_refused(struct world *world, int too_long) {
    const struct world_setup *setup = &world->setup;
    pthread_mutex_lock(&world->lock);
    for (int i = 0; i < setup->forbidden; i++)
        send_one(world, world->devices[i]);
    for (int i = 0; i < too_long; i++)
        send_one(world, world->devices[setup->forbidden + rand() % setup->mictrack]);
    pthread_mutex_unlock(&world->lock);
}

// --- looking into the store ---

static FILE *ask_store(const struct world *world, long long number) {
    char command[400], which[24] = "";
    if (number != 0)
        snprintf(which, sizeof which, "%lld", number);
    snprintf(command, sizeof command, "TRACKBUS_STORE=%s/store.db %s store list %s", world->rig->directory,
             TRACKBUS_BINARY, which);
    FILE *output = popen(command, "r");
    cr_assert(output != NULL);
    return output;
}

// A row begins with the number; what says that there is none does not.
static size_t list_numbers(const struct world *world, long long *numbers) {
    char line[1024];
    size_t count = 0;
    FILE *output = ask_store(world, 0);
    while (count < LISTED_MAX && fgets(line, sizeof line, output) != NULL)
        count += sscanf(line, "%lld ", &numbers[count]) == 1;
    cr_assert(pclose(output) == 0, "trackbus store list fails");
    return count;
}

static bool is_report(const struct world *world, int device, int sequence) {
    return device >= 0 && device < world->device_count && sequence >= 1 && sequence <= SEQUENCE_MAX;
}

static void note_aside(struct world *world, long long number) {
    char payload[8192] = "";
    FILE *output = ask_store(world, number);
    size_t length = fread(payload, 1, sizeof payload - 1, output);
    cr_assert(pclose(output) == 0 && length > 0, "trackbus store list %lld fails", number);
    const char *ident = strstr(payload, "\"ident\":\"860000000000");
    const char *seqnum = strstr(payload, "\"message.seqnum\":");
    cr_assert(ident != NULL && seqnum != NULL, "set aside: %s", payload);
    int device = atoi(ident + 21), sequence = atoi(seqnum + 17);
    cr_assert(is_report(world, device, sequence), "set aside: %s", payload);
    uint8_t *flags = &world->devices[device]->flags[sequence];
    cr_assert((*flags & UNWELCOME) != 0, "report %d of device %d was set aside", sequence, device);
    cr_assert((*flags & ASIDE) == 0, "report %d of device %d was set aside twice", sequence, device);
    *flags |= ASIDE;
    world->counts.aside++;
}

static void expect_not_received(const struct world *world) {
    for (int i = 0; i < world->device_count; i++)
        for (int s = 1; s <= world->devices[i]->last; s++)
            cr_assert((world->devices[i]->flags[s] & (UNWELCOME | RECEIVED)) != (UNWELCOME | RECEIVED),
                      "the broker took report %d of device %d", s, i);
}

void world_expect_aside(struct world *world, const char *name) {
    static long long numbers[LISTED_MAX];
    size_t listed = list_numbers(world, numbers);
    for (size_t i = 0; i < listed; i++)
        note_aside(world, numbers[i]);
    expect_not_received(world);
    if (world->counts.refused > 0)
        fprintf(stderr, "%-28s sent %zu that the broker does not take, set aside %zu\n", name,
                world->counts.refused, world->counts.aside);
    cr_assert(world->counts.aside == world->counts.refused, "%zu reports were set aside instead of %zu",
              world->counts.aside, world->counts.refused);
}
