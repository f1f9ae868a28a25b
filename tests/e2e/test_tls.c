// The connection to the broker over TLS, with certificates made for the test.
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/e2e/rig.h"

TestSuite(tls, .fini = rig_clean);

// Makes a certificate for a name, and an authority for it: NAME.crt, NAME.key and NAME-ca.crt in the rig's
// directory.
static void make_certificate(const struct rig *rig, const char *name, const char *subject) {
    char command[1600];
    snprintf(command, sizeof command,
             "cd %s && openssl req -x509 -newkey rsa:2048 -nodes -keyout %s-ca.key -out %s-ca.crt -days 2 "
             "-subj /CN=%s-ca "
             "2>>openssl.log && openssl req -newkey rsa:2048 -nodes -keyout %s.key -out %s.csr -subj /CN=%s "
             "2>>openssl.log "
             "&& printf 'subjectAltName=%s' >%s.ext && openssl x509 -req -in %s.csr -CA %s-ca.crt -CAkey "
             "%s-ca.key "
             "-CAcreateserial -out %s.crt -days 2 -extfile %s.ext 2>>openssl.log && chmod 644 %s.key",
             rig->directory, name, name, name, name, name, name, subject, name, name, name, name, name, name,
             name);
    cr_assert(system(command) == 0, "openssl fails");
}

// A broker that has a port with TLS beside the rig's own, and a gateway that is told to use it.
static struct rig *tls_up(const char *subject, const char *url_format, const char *more) {
    static char lines[512], changes[512];
    char url[128];
    int port = rig_free_port();
    struct rig *rig = rig_new();
    make_certificate(rig, "broker", subject);
    make_certificate(rig, "other", subject);
    snprintf(lines, sizeof lines,
             "listener %d 127.0.0.1\nallow_anonymous true\ncafile %s/broker-ca.crt\ncertfile "
             "%s/broker.crt\nkeyfile "
             "%s/broker.key\n",
             port, rig->directory, rig->directory, rig->directory);
    rig_broker_start(rig, lines);
    rig_client_start(rig);
    snprintf(url, sizeof url, url_format, port);
    snprintf(changes, sizeof changes, "{'mqtt':{'url':'%s','ca_file':'%s/%s'}}", url, rig->directory, more);
    rig_gateway_start(rig, changes);
    return rig;
}

Test(tls, broker_with_a_certificate_of_the_right_authority_and_name) {
    struct rig *rig = tls_up("DNS:localhost", "mqtts://localhost:%d", "broker-ca.crt");
    rig_expect_log(rig, ": connected");
    device_send(rig_tcp(rig), report(VAN, 1));
    rig_expect(rig, "message/gw/devices/" VAN, "{'message.seqnum':1}");
    rig_finish(rig);
}

static void expect_refusal(struct rig *rig, const char *why) {
    rig_expect_log(rig, why);
    rig_expect_log(rig, "A TLS error occurred; retrying in");
    cr_assert(!rig_log_has(rig, ": connected"));
    rig_finish(rig);
}

Test(tls, broker_of_another_name_is_not_talked_to) {
    expect_refusal(tls_up("DNS:elsewhere.example", "mqtts://localhost:%d", "broker-ca.crt"),
                   "host name verification failed");
}

Test(tls, broker_of_another_authority_is_not_talked_to) {
    expect_refusal(tls_up("DNS:localhost", "mqtts://localhost:%d", "other-ca.crt"),
                   "certificate verify failed");
}

Test(tls, authority_that_is_not_there_ends_the_start) {
    struct rig *rig = rig_new();
    rig_expect_no_start(
        rig, "{'mqtt':{'ca_file':'/nowhere/ca.crt'}}",
        "$.mqtt.ca_file: is \"/nowhere/ca.crt\", which cannot be read: No such file or directory");
    rig->finished = true;
}

// --- the wrong kind of port ---

Test(tls, plain_url_to_a_port_with_tls_is_named) {
    struct rig *rig = tls_up("DNS:localhost", "mqtt://localhost:%d", "broker-ca.crt");
    rig_expect_log(rig, "port speak");
    cr_assert(!rig_log_has(rig, ": connected"));
    rig_finish(rig);
}

Test(tls, url_with_tls_to_a_plain_port_is_named) {
    char changes[64];
    struct rig *rig = rig_with_broker(NULL);
    snprintf(changes, sizeof changes, "{'mqtt':{'url':'mqtts://localhost:%d'}}", rig->broker_port);
    rig_gateway_start(rig, changes);
    rig_expect_log(rig, "does this port speak TLS");
    rig_finish(rig);
}
