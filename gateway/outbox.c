// The outbox; see outbox.h.
#include "gateway/outbox.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/log.h"
#include "gateway/memory.h"

struct item {
    uint64_t number;
    struct mqtt_publish publish; // its pointers point into bytes
    size_t size;
    int mid; // while it is at the broker
    UT_hash_handle hh;
    struct item *prev, *next;
    char bytes[];
};

struct outbox {
    struct mqtt_link *link;
    unsigned window, in_flight;
    size_t max_bytes, bytes, count;
    uint64_t last_number;
    uint64_t turned_away; // messages since the outbox was last found full
    struct item *items;   // in order; those before next_out are at the broker
    struct item *next_out;
    struct item *by_mid;
    bool pumping;  // messages are being handed over
    int early_mid; // of QoS 0: written before the handing over returned; 0: none
    struct outbox_waiter *waiters;
};

struct outbox *outbox_new(unsigned window, size_t max_bytes) {
    struct outbox *outbox = must_have(calloc(1, sizeof *outbox));
    outbox->window = window;
    outbox->max_bytes = max_bytes;
    return outbox;
}

void outbox_set_link(struct outbox *outbox, struct mqtt_link *link) {
    outbox->link = link;
}

size_t outbox_count(const struct outbox *outbox) {
    return outbox->count;
}

static struct item *make_item(const struct mqtt_publish *publish) {
    size_t topic = strlen(publish->topic) + 1;
    size_t size = sizeof(struct item) + topic + publish->length + publish->correlation_length;
    struct item *item = must_have(malloc(size));
    *item = (struct item){.publish = *publish, .size = size};
    char *next = item->bytes;
    item->publish.topic = memcpy(next, publish->topic, topic);
    next += topic;
    if (publish->length > 0)
        item->publish.payload = memcpy(next, publish->payload, publish->length);
    next += publish->length;
    if (publish->correlation != NULL)
        item->publish.correlation = memcpy(next, publish->correlation, publish->correlation_length);
    return item;
}

// Everything before the oldest message that is still here is safe.
static bool is_safe(const struct outbox *outbox, uint64_t number) {
    return outbox->items == NULL || number < outbox->items->number;
}

// A waiter behind one that waits for more is called with it, which is late but safe; and a callback may
// forget any other waiter, so each time the first one is taken anew.
static void call_waiters(struct outbox *outbox) {
    while (outbox->waiters != NULL && is_safe(outbox, outbox->waiters->last)) {
        struct outbox_waiter *waiter = outbox->waiters;
        DL_DELETE(outbox->waiters, waiter);
        waiter->done(waiter, true);
    }
}

static struct outbox_waiter *find_waiter(const struct outbox *outbox, uint64_t number) {
    struct outbox_waiter *waiter;
    DL_FOREACH(outbox->waiters, waiter) {
        if (waiter->first <= number && number <= waiter->last)
            return waiter;
    }
    return NULL;
}

static void fail_waiters(struct outbox *outbox, uint64_t refused) {
    struct outbox_waiter *waiter;
    while ((waiter = find_waiter(outbox, refused)) != NULL) {
        DL_DELETE(outbox->waiters, waiter);
        waiter->done(waiter, false);
    }
}

static void drop_item(struct outbox *outbox, struct item *item) {
    if (item == outbox->next_out)
        outbox->next_out = item->next;
    DL_DELETE(outbox->items, item);
    outbox->bytes -= item->size;
    outbox->count--;
    free(item);
}

static void refuse_item(struct outbox *outbox, struct item *item, const char *reason) {
    uint64_t number = item->number;
    log_error("a message to %s is lost, the broker does not take it: %s", item->publish.topic, reason);
    fail_waiters(outbox, number);
    drop_item(outbox, item);
}

// The link has the item, or with QoS 0 the network may have it already.
static void note_handed_over(struct outbox *outbox, struct item *item) {
    outbox->next_out = item->next;
    if (outbox->early_mid == item->mid) {
        drop_item(outbox, item);
        return;
    }
    HASH_ADD_INT(outbox->by_mid, mid, item);
    outbox->in_flight++;
}

static void hand_over(struct outbox *outbox) {
    while (outbox->next_out != NULL && outbox->in_flight < outbox->window) {
        struct item *item = outbox->next_out;
        outbox->early_mid = 0;
        enum mqtt_publish_result result = mqtt_link_publish(outbox->link, &item->publish, &item->mid);
        if (result == MQTT_NOT_NOW)
            return;
        if (result == MQTT_REFUSED)
            refuse_item(outbox, item, "it is too large, or its topic is none");
        else
            note_handed_over(outbox, item);
    }
}

// The link may report what was published from within, also of the very message that is being handed over.
static void pump(struct outbox *outbox) {
    if (outbox->pumping)
        return; // the loop below goes on with what there is
    outbox->pumping = true;
    hand_over(outbox);
    outbox->pumping = false;
    call_waiters(outbox);
}

uint64_t outbox_put(struct outbox *outbox, const struct mqtt_publish *publish) {
    struct item *item = make_item(publish);
    if (outbox->bytes + item->size > outbox->max_bytes) {
        if (outbox->turned_away++ == 0)
            log_error("the outbox is full with %zu messages, %zu bytes: new messages are lost until the "
                      "broker takes "
                      "some",
                      outbox->count, outbox->bytes);
        free(item);
        return 0;
    }
    if (outbox->turned_away > 0)
        log_error("the outbox takes messages again; %llu were lost", (unsigned long long)outbox->turned_away);
    outbox->turned_away = 0;
    item->number = ++outbox->last_number;
    outbox->bytes += item->size;
    outbox->count++;
    DL_APPEND(outbox->items, item);
    if (outbox->next_out == NULL)
        outbox->next_out = item;
    pump(outbox);
    return outbox->last_number;
}

void outbox_when_safe(struct outbox *outbox, struct outbox_waiter *waiter) {
    if (is_safe(outbox, waiter->last))
        waiter->done(waiter, true);
    else
        DL_APPEND(outbox->waiters, waiter);
}

void outbox_forget(struct outbox *outbox, struct outbox_waiter *waiter) {
    DL_DELETE(outbox->waiters, waiter);
}

void outbox_link_up(struct outbox *outbox) {
    pump(outbox);
}

// What was at the broker may have arrived or not: it goes out again, before all that waits.
void outbox_link_down(struct outbox *outbox) {
    HASH_CLEAR(hh, outbox->by_mid);
    outbox->in_flight = 0;
    outbox->next_out = outbox->items;
}

void outbox_published(struct outbox *outbox, int mid, const char *reason) {
    struct item *item;
    HASH_FIND_INT(outbox->by_mid, &mid, item);
    if (item == NULL) {
        outbox->early_mid = outbox->pumping ? mid : 0;
        return;
    }
    HASH_DEL(outbox->by_mid, item);
    outbox->in_flight--;
    if (reason != NULL)
        refuse_item(outbox, item, reason);
    else
        drop_item(outbox, item);
    pump(outbox);
}

void outbox_free(struct outbox *outbox) {
    HASH_CLEAR(hh, outbox->by_mid);
    while (outbox->items != NULL)
        drop_item(outbox, outbox->items);
    free(outbox);
}
