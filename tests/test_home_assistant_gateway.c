// The gateway's own entities for Home Assistant: what the broker does not take now is announced later.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/state/home_assistant_gateway.h"
#include "tests/carrier.h"

static struct carrier carrier;
static struct bus *bus;
static struct publisher *publisher;
static struct guard *guard;
static struct home_assistant_gateway *gateway;
static char prefix[] = "homeassistant";
static const struct config config = {.home_assistant = {.enabled = true, .prefix = prefix}};

static void again(void *context, const char *topic) {
}

static void all_again(void *context) {
}

static void set_up(void) {
    carrier_open(&carrier);
    bus = bus_new("trackbus", "me", carrier.outbox, &carrier.carrier);
    publisher = publisher_new(&carrier.loop);
    guard = guard_new(&carrier.loop, &(struct guard_handlers){NULL, again, all_again});
    gateway = home_assistant_gateway_new(&config, bus, publisher, guard);
    publisher_open(publisher);
}

static void tear_down(void) {
    publisher_stop(publisher);
    guard_stop(guard);
    carrier_close(&carrier);
    home_assistant_gateway_free(gateway);
    guard_free(guard);
    publisher_free(publisher);
    bus_free(bus);
}

TestSuite(home_assistant_gateway, .init = set_up, .fini = tear_down);

static size_t count_announced(void) {
    size_t count = 0;
    for (size_t i = 0; i < carrier.count; i++)
        count += strncmp(carrier.carried[i].topic, prefix, strlen(prefix)) == 0;
    return count;
}

Test(home_assistant_gateway, is_announced_once_the_broker_keeps_up) {
    home_assistant_gateway_announce(gateway);
    cr_expect(!publisher_publish(publisher), "it is still due");
    carrier_go_up(&carrier);
    cr_expect(publisher_publish(publisher));
    cr_expect_eq(count_announced(), 5);
    cr_expect(publisher_publish(publisher), "once is enough");
    cr_expect_eq(count_announced(), 5);
    carrier_answer_all(&carrier);
    home_assistant_gateway_announce(gateway);
    cr_expect(publisher_publish(publisher));
    cr_expect_eq(count_announced(), 10);
}
