// What the page keeps of the gateways, and what of it stands in /metrics.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/web/gateways.h"
#include "gateway/web/prometheus.h"

TestSuite(web_gateways);

static void take(struct gateways *gateways, const char *topic, const char *payload) {
    const struct mqtt_received received = {.topic = topic, .payload = payload, .length = strlen(payload)};
    cr_assert(gateways_take(gateways, topic, &received));
}

static void expect_metrics(const struct gateways *gateways, const char *line, bool there) {
    struct text_out out = {0};
    prometheus_write(gateways, &out);
    cr_assert((strstr(out.text, line) != NULL) == there, "%s %s in:\n%s", line, there ? "is not" : "is",
              out.text);
    text_out_free(&out);
}

// The broker calls the gateway of this process offline when it loses it: that does not make it forget its version.
Test(web_gateways, the_own_one_keeps_its_version) {
    struct gateways *gateways = gateways_new();
    gateways_take_own(gateways, "own", json_pack("{s:f, s:i}", "started", 1e9, "publishes", 7));
    expect_metrics(gateways, "trackbus_build_info{instance=\"own\",version=\"" TRACKBUS_VERSION "\"} 1",
                   true);
    take(gateways, "instances/own", "{\"state\":\"online\",\"version\":\"9\",\"started\":1e9}");
    take(gateways, "instances/own", "{\"state\":\"offline\"}");
    expect_metrics(gateways, "trackbus_build_info{instance=\"own\",version=\"9\"} 1", true);
    expect_metrics(gateways, "trackbus_publishes_total{instance=\"own\"} 7", true);
    gateways_free(gateways);
}

// What one that is offline said last is not what holds now.
Test(web_gateways, of_one_that_is_offline_nothing_is_told) {
    struct gateways *gateways = gateways_new();
    take(gateways, "instances/b", "{\"state\":\"online\",\"version\":\"9\"}");
    take(gateways, "instances/b/metrics", "{\"publishes\":7}");
    expect_metrics(gateways, "trackbus_publishes_total{instance=\"b\"} 7", true);
    cr_assert(gateways_online(gateways) == 1);
    take(gateways, "instances/b", "{\"state\":\"offline\"}");
    cr_assert(gateways_online(gateways) == 0);
    expect_metrics(gateways, "trackbus_instance_up{instance=\"b\"} 0", true);
    expect_metrics(gateways, "trackbus_publishes_total{instance=\"b\"}", false);
    expect_metrics(gateways, "version=", false);
    gateways_free(gateways);
}
