// The brokers of the configuration, and what was found of each; see broker_book.h.
#include "gateway/broker/broker_book.h"

#include <stdlib.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define REFERENCES_MAX 5

struct broker_book {
    const struct broker_address *key; // the configuration's
    struct broker *list;
    size_t count, preferred;
    unsigned users;
    enum config_mqtt_version version;
    struct broker_book *prev, *next;
};

static struct broker_book *books;

static void fill(struct broker *broker, struct broker_address address, enum config_mqtt_version version) {
    free(broker->address.host);
    *broker = (struct broker){.address = address};
    protocol_version_init(&broker->version, version);
}

static struct broker_book *new_book(const struct config *config) {
    struct broker_book *book = must_have(calloc(1, sizeof *book));
    book->key = config->mqtt.brokers;
    book->version = config->mqtt.version;
    book->count = config->mqtt.broker_count;
    book->list = must_have(calloc(book->count, sizeof *book->list));
    for (size_t i = 0; i < book->count; i++)
        fill(&book->list[i], broker_address_copy(&config->mqtt.brokers[i]), book->version);
    DL_APPEND(books, book);
    return book;
}

static void free_book(struct broker_book *book) {
    DL_DELETE(books, book);
    for (size_t i = 0; i < book->count; i++)
        free(book->list[i].address.host);
    free(book->list);
    free(book);
}

void broker_route_open(struct broker_route *route, const struct config *config) {
    struct broker_book *book;
    DL_SEARCH_SCALAR(books, book, key, config->mqtt.brokers);
    if (book == NULL)
        book = new_book(config);
    book->users++;
    *route = (struct broker_route){.book = book};
}

void broker_route_close(struct broker_route *route) {
    if (route->book != NULL && --route->book->users == 0)
        free_book(route->book);
    free(route->guest.address.host);
    *route = (struct broker_route){0};
}

// The one that worked last comes first, and then the others in their order.
static size_t index_of(const struct broker_route *route) {
    size_t preferred = route->book->preferred;
    if (route->tried == 0)
        return preferred;
    return route->tried <= preferred ? route->tried - 1 : route->tried;
}

struct broker *broker_route_next(struct broker_route *route) {
    if (route->to_guest) {
        route->to_guest = false;
        return route->current = &route->guest;
    }
    route->index = index_of(route);
    return route->current = &route->book->list[route->index];
}

bool broker_route_failed(struct broker_route *route) {
    if (route->current == &route->guest)
        return false;
    route->tried = (route->tried + 1) % route->book->count;
    return route->tried != 0;
}

void broker_route_worked(struct broker_route *route) {
    route->tried = 0;
    if (route->current != &route->guest)
        route->book->preferred = route->index;
}

void broker_route_lasted(struct broker_route *route) {
    route->references = 0;
}

bool broker_route_refer(struct broker_route *route, const char *reference, bool forever) {
    struct broker_address address;
    if (route->references >= REFERENCES_MAX) {
        route->references = 0;
        return false;
    }
    if (!broker_url_parse_reference(reference, &route->current->address, &address))
        return false;
    route->references++;
    route->to_guest = !forever;
    if (forever) {
        fill(&route->book->list[route->index], address, route->book->version);
        route->book->preferred = route->index;
        route->tried = 0;
    } else {
        fill(&route->guest, address, route->book->version);
    }
    return true;
}

bool broker_route_has_others(const struct broker_route *route) {
    return route->book->count > 1;
}
