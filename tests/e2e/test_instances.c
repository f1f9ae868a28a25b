// Several gateways on one broker: one takes commands in, the one that holds the device delivers.
#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/command_life.h"
#include "tests/e2e/scripted_broker.h"

TestSuite(instances, .init = rig_share_key, .fini = rig_clean, .timeout = 120);
TestSuite(instances_3_1_1, .init = rig_share_key, .fini = rig_clean, .timeout = 120);

#define SECOND "{'mqtt':{'client_id':'second'},'commands':{'intake':false}}"

// The first takes commands in; rig->beside does not.
static struct rig *two_up(void) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, SECOND);
    rig_expect_log(second, ": connected");
    return rig;
}

static int64_t queue(struct rig *rig, const char *command) {
    return queue_command(rig, VAN, "+", command);
}

// A device that stays where it is. When a command comes through to it, its gateway has heard of all that the
// broker had before.
struct post {
    const char *ident;
    int device;
};

static struct post post_at(struct rig *rig, const char *ident) {
    return (struct post){.ident = ident, .device = wake(rig, ident)};
}

static void expect_heard(struct rig *rig, struct post post) {
    char topic[96];
    snprintf(topic, sizeof topic, "command/gw/devices/%s", post.ident);
    rig_publish(rig, topic, "light,1#");
    device_expect(post.device, "light,1#");
    device_send(post.device, "light=Success!\r\n");
    expect_step(rig, post.ident, "custom", "processed", "{'executed':true}");
}

static void expect_once(struct rig *rig, int device) {
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    expect_steps(rig, VAN, "queued", 1);
}

STORY(instances, the_one_that_holds_the_device_delivers) {
    struct rig *rig = two_up();
    int device = wake(rig->beside, VAN);
    rig_publish(rig, TO_VAN, REBOOT);
    expect_once(rig, device);
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

// A broken log entry is no sign that another gateway has the device.
STORY(instances, a_device_does_not_move_on_a_word_of_nobody) {
    struct rig *rig = rig_up(NULL);
    int device = wake(rig, VAN);
    rig_publish(rig, "log/gw/devices/" VAN "/connected", "");
    rig_publish(rig, "log/gw/devices/" VAN "/connected", "no JSON");
    rig_publish(rig, "log/gw/devices/" VAN "/connected", "{\"instance\":42}");
    rig_publish(rig, TO_VAN, "where?");
    device_expect(device, "where?");
    rig_finish(rig);
}

// A gateway that was without the broker tells late of a device that has moved since.
STORY(instances, a_device_does_not_move_back_on_what_was_said_long_before) {
    struct rig *rig = rig_up(NULL);
    char entry[96];
    int device = wake(rig, VAN);
    rig_publish(rig, TO_VAN, "where?"); // it has settled when this comes
    device_expect(device, "where?");
    snprintf(entry, sizeof entry, "{\"instance\":\"second\",\"timestamp\":%lld,\"late\":true}",
             (long long)time(NULL) - 120);
    rig_publish(rig, "log/gw/devices/" VAN "/connected", entry);
    device_send(device, "MT;6;" VAN ";R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+7\r\n");
    rig_publish(rig, TO_VAN, "rconf,1#");
    device_expect(device, "rconf,1#");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "true");
    rig_finish(rig);
}

// Clocks that are apart: neither may decide who came later.
static struct rig *two_apart(const char *clock, const char *clock_beside) {
    struct rig *rig = rig_with_broker(NULL), *second = rig_beside(rig);
    rig->clock = clock;
    second->clock = clock_beside;
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    rig_gateway_start(second, SECOND);
    rig_expect_log(second, ": connected");
    return rig;
}

STORY(instances, a_device_moves_to_one_whose_clock_is_behind) {
    struct rig *rig = two_apart(NULL, "-300");
    int before = wake(rig, VAN), device = wake(rig->beside, VAN);
    device_expect_closed(before);
    rig_publish(rig, TO_VAN, REBOOT);
    expect_once(rig, device);
    expect_steps(rig, VAN, "sent", 1);
    rig_finish(rig);
}

// Whether the broker heard of the van last by the second one.
static bool is_second_last(struct rig *rig) {
    const char *entries = "log/gw/devices/" VAN "/connected";
    rig_expect(rig, entries, "{'instance':'trackbus'}");
    rig_expect(rig, entries, "{'instance':'second'}");
    return strstr(rig_message_at(rig, entries, 1)->payload, "\"second\"") != NULL;
}

// What the first one said comes late to the second, when the device is there already. It has been written before the
// second one says anything, for the first one has turned to another device; but a broker that was stopped while it had
// work may read the second one first. Its order decides, and no clock.
STORY(instances, a_device_moves_from_one_whose_clock_is_ahead) {
    struct rig *rig = two_apart("+5", NULL);
    int devices[2];
    rig_broker_freeze(rig);
    device_send(devices[0] = rig_tcp(rig), report(VAN, 1));
    rig_expect_log(rig, VAN ": identified");
    device_send(rig_tcp(rig), report(CAR, 1));
    rig_expect_log(rig, CAR ": identified");
    device_send(devices[1] = rig_tcp(rig->beside), report(VAN, 2));
    rig_expect_log(rig->beside, VAN ": identified");
    rig_broker_thaw(rig);
    bool last = is_second_last(rig);
    device_expect_closed(devices[!last]);
    rig_publish(rig, TO_VAN, REBOOT);
    expect_once(rig, devices[last]);
    rig_finish(rig);
}

#define FIGHT 2000 // milliseconds

// Two devices with one ident, each of which connects again when the other one has taken over.
Test(instances, two_that_take_over_from_each_other_do_so_slowly) {
    struct rig *rig = two_up(), *places[] = {rig, rig->beside};
    int64_t began = rig_clock();
    int devices[2] = {-1, -1}, takeovers = 0;
    for (; rig_clock() - began < FIGHT; takeovers++) {
        int now = takeovers % 2;
        devices[now] = wake(places[now], VAN);
        if (takeovers > 0)
            device_expect_closed(devices[!now]);
    }
    int64_t seconds = (rig_clock() - began) / 1000;
    cr_assert(takeovers <= 2 * (seconds + 2), "%d in %lld s", takeovers, (long long)seconds);
    rig_finish(rig);
}

STORY(instances, any_delivers_when_the_device_wakes) {
    struct rig *rig = two_up();
    queue(rig, REBOOT);
    expect_once(rig, wake(rig->beside, VAN));
    finish(rig);
}

STORY(instances, one_that_starts_later_sees_what_waits) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    queue(rig, REBOOT);
    rig_gateway_start(second, SECOND);
    int device = rig_tcp(second); // perhaps before it has heard of the command
    device_send(device, report(VAN, 1));
    expect_once(rig, device);
    finish(rig);
}

STORY(instances, a_device_that_moves_gets_each_command_once) {
    struct rig *rig = two_up();
    int before = wake(rig, VAN), device = -1;
    const struct post posts[] = {post_at(rig, CAR), post_at(rig->beside, "866425031377999")};
    for (int i = 0; i < 6; i++) {
        struct rig *at = i % 2 == 0 ? rig->beside : rig;
        device = wake(at, VAN);
        device_expect_closed(before); // the other lets go of it
        before = device;
        char text[32], reply[96];
        snprintf(text, sizeof text, "mode,7,%d#", 10 + i);
        snprintf(reply, sizeof reply, "{'executed':true,'properties':{'payload':'%s'}}", text);
        rig_publish(rig, TO_VAN, text);
        device_expect(device, text);
        device_send(device, "mode=Success!\r\n");
        expect_step(rig, VAN, "custom", "processed", reply);
        expect_heard(rig, posts[i % 2]);
    }
    expect_steps(rig, VAN, "sent", 6);
    finish(rig);
}

STORY(instances, a_device_that_moves_over_udp_gets_each_command_once) {
    struct rig *rig = two_up();
    int first = rig_udp(rig), second = rig_udp(rig->beside);
    for (int i = 0; i < 4; i++) {
        int device = i % 2 == 0 ? second : first;
        talk(rig, device, VAN);
        rig_expect(rig, "log/gw/devices/" VAN "/connected", NULL);
        if (i > 0)
            rig_expect(rig, "log/gw/devices/" VAN "/disconnected", NULL);
        rig_publish(rig, TO_VAN, REBOOT);
        device_expect_datagram(device, "reboot,0#");
        device_send(device, "reboot=Success!");
        expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    }
    expect_steps(rig, VAN, "sent", 4);
    finish(rig);
    device_expect_no_more(first);
    device_expect_no_more(second);
}

// Sent by one gateway, answered at the other.
STORY(instances, an_answer_counts_wherever_it_comes) {
    struct rig *rig = two_up();
    struct post post = post_at(rig->beside, CAR);
    int64_t id = queue(rig, REBOOT);
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'trackbus'}");
    close(device);
    expect_heard(rig, post);
    device = wake(rig->beside, VAN);
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

STORY(instances, a_device_that_moves_without_an_answer_gets_it_again) {
    struct rig *rig = two_up();
    queue(rig, REBOOT_FAST(3));
    int device = wake(rig, VAN);
    device_expect(device, "reboot,0#");
    expect_once(rig, wake(rig->beside, VAN));
    finish(rig);
}

STORY(instances, what_comes_while_the_intake_is_away_is_not_missed) {
    struct rig *rig = two_up();
    int device = wake(rig->beside, VAN);
    rig_gateway_kill(rig);
    for (int i = 0; i < 50; i++) {
        char text[32];
        snprintf(text, sizeof text, "mode,7,%d#", 10 + i);
        rig_publish(rig, TO_VAN, text);
    }
    cr_assert(!device_has_bytes(device));
    rig_gateway_start(rig, NULL);
    for (int i = 0; i < 50; i++) {
        char text[32];
        snprintf(text, sizeof text, "mode,7,%d#", 10 + i);
        device_expect(device, text);
        device_send(device, "mode=Success!\r\n");
    }
    finish(rig);
    expect_steps(rig, VAN, "sent", 50);
}

// The intake has the command on its disk, but the other one has finished it meanwhile.
STORY(instances, what_ended_while_the_intake_was_away_is_not_sent_again) {
    struct rig *rig = two_up();
    queue(rig, REBOOT);
    rig_gateway_kill(rig);
    expect_once(rig, wake(rig->beside, VAN));
    rig_gateway_start(rig, NULL);
    int device = rig_tcp(rig); // perhaps before it has heard of it
    device_send(device, report(VAN, 1));
    rig_expect_log(rig, ": connected");
    talk(rig, device, VAN);
    check_lives(rig, false);
    talk(rig, device, VAN);
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
    device_expect_no_more(device);
}

// The same, away for longer than the command may wait.
STORY(instances, what_ended_elsewhere_does_not_expire) {
    struct rig *rig = two_up();
    queue(rig, "{\"name\":\"reboot\",\"ttl\":60}");
    rig_gateway_kill(rig);
    expect_once(rig, wake(rig->beside, VAN));
    rig->clock = "+61s"; // so long was it down
    rig_gateway_start(rig, NULL);
    rig_expect_log(rig, ": connected");
    int device = wake(rig, CAR);
    rig_publish(rig, TO_CAR, "reboot,0#"); // behind all that stood in the broker
    device_expect(device, "reboot,0#");
    device_send(device, "reboot=Success!\r\n");
    finish(rig);
}

STORY(instances, a_device_that_comes_from_a_dead_one_gets_it_again_at_once) {
    struct rig *rig = two_up();
    struct post post = post_at(rig, CAR);
    int64_t id = queue(rig, "rconf,1#");
    int device = wake(rig->beside, VAN);
    device_expect(device, "rconf,1#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'second'}");
    rig_gateway_kill(rig->beside);
    expect_heard(rig, post);
    device = wake(rig, VAN);
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_step(rig, VAN, "custom", "processed", "{'executed':true,'attempts':2}");
    rig_finish(rig);
}

// The device waits for it nowhere else: it is not away, it is gone from there.
STORY(instances, a_device_that_comes_from_a_living_one_gets_it_again_at_once) {
    struct rig *rig = two_up();
    int64_t id = queue(rig, "rconf,1#");
    int device = wake(rig->beside, VAN);
    device_expect(device, "rconf,1#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'second'}");
    device = wake(rig, VAN);
    device_expect(device, "rconf,1#");
    device = wake(rig->beside, VAN);
    device_expect(device, "rconf,1#");
    device_send(device, "rconf=a,b,c,1,6,30,V1,GSM\r\n");
    expect_step(rig, VAN, "custom", "processed", "{'executed':true,'attempts':3}");
    expect_steps(rig, VAN, "sent", 3);
    finish(rig);
}

// No device comes.
STORY(instances, the_intake_goes_on_with_what_a_dead_one_has_sent) {
    struct rig *rig = two_up();
    struct post post = post_at(rig, CAR);
    int64_t id = queue(rig, REBOOT_FAST(3));
    int device = wake(rig->beside, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'second'}");
    rig_gateway_kill(rig->beside);
    expect_heard(rig, post);
    rig_expect_message(rig, ALL_PENDING, "{'state':'queued','instance':'trackbus','attempts':1}", 30000);
    expect_once(rig, wake(rig, VAN));
    rig_finish(rig);
}

STORY(instances, one_that_delivers_and_is_killed_comes_back_without_harm) {
    struct rig *rig = two_up();
    int64_t id = queue(rig, REBOOT);
    int device = wake(rig->beside, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'second'}");
    expect_step(rig, VAN, "reboot", "sent",
                NULL); // which may be lost with the gateway: it comes behind the entry
    rig_gateway_kill(rig->beside);
    rig_gateway_start(rig->beside, SECOND);
    rig_expect_log(rig->beside, ": connected");
    device = wake(rig->beside, VAN);
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

STORY(instances, a_command_is_canceled_wherever_it_is) {
    struct rig *rig = two_up();
    struct post post = post_at(rig->beside, CAR);
    char topic[128];
    int64_t id = queue(rig, REBOOT);
    int device = wake(rig->beside, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'second'}");
    snprintf(topic, sizeof topic, "state/gw/devices/" VAN "/commands-queue/%lld", (long long)id);
    rig_publish_retained(rig, topic, "");
    expect_step(rig, VAN, "reboot", "canceled", NULL);
    expect_heard(rig, post); // and so that the command is gone
    device_send(device, "reboot=Success!\r\n");
    rig_expect_log(rig->beside, "unexpected answer to 'reboot'");
    finish(rig);
}

// --- a broker that refuses an entry of the queue ---

#define ENTRIES "trackbus/state/gw/devices/" VAN "/commands-queue/+"

static void expect_sent(struct rig *rig, int device, const char *text) {
    rig_publish(rig, TO_VAN, text);
    device_expect(device, text);
    talk(rig, device, VAN); // it answers where?
    expect_step(rig, VAN, "custom", "processed", "{'executed':true}");
}

// That costs the entry, or the command where another gateway may have heard of it, and not those behind it.
Test(instances, an_entry_that_the_broker_refuses_holds_up_nothing) {
    struct rig *rig = rig_new();
    struct scripted_broker *broker = scripted_broker_start(rig);
    rig_client_start(rig);
    struct rig *second = rig_beside(rig);
    rig_gateway_start(rig, NULL);
    rig_expect_state(rig);
    rig_gateway_start(second, SECOND);
    rig_expect_log(second, ": connected");
    int device = wake(rig, VAN);
    struct post post = post_at(second, CAR);
    expect_heard(rig, post); // and so that there are two
    int rule = scripted_broker_set(
        broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH, .topic = ENTRIES, .reason = 0x87});
    expect_sent(rig, device, "where?");
    scripted_expect_hits(broker, rule, 2);
    rig_expect_log(rig, "command custom can be sent by this gateway alone");
    scripted_broker_unset(broker, rule);
    rule = scripted_broker_set(broker, (struct scripted_rule){.on = SCRIPTED_PUBLISH,
                                                              .topic = ENTRIES,
                                                              .containing = "rconf,1#",
                                                              .from = 2, // as sent
                                                              .times = 1,
                                                              .reason = 0x95});
    rig_publish(rig, TO_VAN, "rconf,1#");
    expect_step(rig, VAN, "custom", "processed", "{'executed':false}");
    scripted_expect_hits(broker, rule, 1);
    expect_sent(rig, device, "where?");
    scripted_broker_finish(broker);
    device_expect_no_more(device);
}

// --- what is lost ---

// The broker loses everything while the other one has the command under way.
STORY(instances, both_outlive_a_broker_that_loses_all) {
    struct rig *rig = two_up();
    int64_t id = queue(rig, REBOOT);
    int device = wake(rig->beside, VAN);
    device_expect(device, "reboot,0#");
    expect_entry(rig, VAN, id, "{'state':'sent','instance':'second'}");
    rig_broker_kill(rig);
    rig_broker_start(rig, NULL);
    expect_entry(rig, VAN, id, "{'state':'sent'}");
    talk(rig, device, VAN);
    device_send(device, "reboot=Success!\r\n");
    expect_step(rig, VAN, "reboot", "processed", "{'executed':true}");
    expect_steps(rig, VAN, "sent", 1);
    finish(rig);
}

// --- sums over all gateways ---

#define CHANNEL "state/gw/channels/1"
#define PART    "state/gw/instances/second/channels/1"

static void expect_connections(struct rig *rig, const char *topic, int count) {
    char subset[64];
    snprintf(subset, sizeof subset, "{'id':1,'name':'mictrack','connections':%d}", count);
    json_decref(rig_expect_standing_json(rig, topic, subset));
}

STORY(instances, their_connections_are_added_up) {
    struct rig *rig = two_up();
    int here = rig_tcp(rig), there = rig_tcp(rig->beside), also = rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 3);
    expect_connections(rig, PART, 2);
    close(there);
    expect_connections(rig, CHANNEL, 2);
    expect_connections(rig, PART, 1);
    close(here);
    expect_connections(rig, CHANNEL, 1);
    close(also);
    expect_connections(rig, CHANNEL, 0);
    rig_expect_standing(rig, "state/gw/instances/trackbus/channels/1", NULL); // which says the sum
    rig_finish(rig);
}

STORY(instances, one_that_is_gone_has_no_connections) {
    struct rig *rig = two_up();
    rig_tcp(rig);
    rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 2);
    rig_gateway_kill(rig->beside);
    expect_connections(rig, CHANNEL, 1); // although what it said last still stands
    expect_connections(rig, PART, 1);
    rig_gateway_start(rig->beside, SECOND);
    expect_connections(rig, PART, 0);
    rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 2);
    rig_gateway_stop(rig->beside);
    expect_connections(rig, CHANNEL, 1);
    rig_finish(rig);
}

STORY(instances, one_that_adds_up_later_hears_what_there_is) {
    struct rig *rig = two_up();
    rig_tcp(rig);
    rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 2);
    rig_gateway_kill(rig);
    expect_connections(rig, CHANNEL, 1); // the other one is alone, and says so itself
    rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 2);
    rig_gateway_start(rig, NULL);
    rig_tcp(rig);
    expect_connections(rig, CHANNEL, 3);
    rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 4);
    expect_connections(rig, PART, 3);
    rig_finish(rig);
}

STORY(instances, their_connections_are_added_up_again_after_the_broker_lost_all) {
    struct rig *rig = two_up();
    rig_tcp(rig);
    rig_tcp(rig->beside);
    expect_connections(rig, CHANNEL, 2);
    rig_broker_kill(rig);
    rig_tcp(rig->beside);
    rig_broker_start(rig, NULL);
    expect_connections(rig, CHANNEL, 3);
    expect_connections(rig, PART, 2);
    rig_finish(rig);
}

// A channel that the intake, which adds up, does not have.
#define APART                                                                                                \
    "{'mqtt':{'client_id':'second'},'commands':{'intake':false},'channels':[{'id':5,'name':'far',"           \
    "'protocol':'mictrack','tcp':'127.0.0.1:0'}]}"

STORY(instances, a_channel_that_only_another_has_is_said_too) {
    struct rig *rig = rig_up(NULL), *second = rig_beside(rig);
    rig_gateway_start(second, APART);
    rig_tcp_to(second, "far");
    json_t *state =
        rig_expect_standing_json(rig, "state/gw/channels/5", "{'id':5,'name':'far','connections':1}");
    cr_assert(json_is_string(json_object_get(state, "tcp")));
    json_decref(state);
    rig_gateway_kill(second);
    json_decref(rig_expect_standing_json(rig, "state/gw/channels/5", "{'name':'far','connections':0}"));
    rig_gateway_start(second, SECOND); // without that channel
    rig_expect_standing(rig, "state/gw/instances/second/channels/5", NULL);
    rig_finish(rig);
}

STORY(instances, one_that_is_alone_says_what_it_has) {
    struct rig *rig = rig_up("{'commands':{'intake':false}}");
    rig_tcp(rig);
    expect_connections(rig, CHANNEL, 1);
    rig_gateway_stop(rig);
    rig_gateway_start(rig, NULL); // now it takes commands in: its part goes
    rig_expect_standing(rig, "state/gw/instances/trackbus/channels/1", NULL);
    rig_tcp(rig);
    expect_connections(rig, CHANNEL, 1);
    rig_finish(rig);
}

// What a third instance, which is made up, retains of itself.
static void say_third(struct rig *rig, const char *what, const char *text) {
    char topic[64];
    snprintf(topic, sizeof topic, "state/gw/instances/third%s", what);
    rig_publish_retained(rig, topic, text);
}

// Killed and back within a second: nobody says that it was offline. What the run before said counts no more.
STORY(instances, another_run_of_one_ends_the_run_before) {
    struct rig *rig = two_up();
    say_third(rig, "", "{\"state\":\"online\",\"started\":1}");
    say_third(rig, "/channels/1", "{\"connections\":50}");
    expect_connections(rig, CHANNEL, 50);
    say_third(rig, "", "{\"state\":\"online\",\"started\":1,\"full\":true}");
    rig_tcp(rig);
    expect_connections(rig, CHANNEL, 51);
    say_third(rig, "", "{\"state\":\"online\",\"started\":2}");
    expect_connections(rig, CHANNEL, 1);
    say_third(rig, "/channels/1", "{\"connections\":7}");
    expect_connections(rig, CHANNEL, 8);
    rig_finish(rig);
}

STORY(instances, what_is_no_state_counts_for_nothing) {
    static const char *const forged[] = {"{'connections':-1}",
                                         "{'connections':'many'}",
                                         "[1]",
                                         "17",
                                         "{'connections':1e300}",
                                         "no JSON",
                                         "{'connections':9223372036854775807}"};
    struct rig *rig = two_up();
    say_third(rig, "", "{\"state\":\"online\"}");
    say_third(rig, "/channels/x", "{\"connections\":50}");
    say_third(rig, "/channels/1", "{\"connections\":50}");
    expect_connections(rig, CHANNEL, 50);
    for (size_t i = 0; i < sizeof forged / sizeof forged[0]; i++) {
        char text[64];
        snprintf(text, sizeof text, "%s", forged[i]);
        for (char *quote; (quote = strchr(text, '\'')) != NULL;)
            *quote = '"';
        say_third(rig, "/channels/1", text);
        expect_connections(rig, CHANNEL, 0);
        say_third(rig, "/channels/1", "{\"connections\":50}");
        expect_connections(rig, CHANNEL, 50);
    }
    say_third(rig, "", "");
    expect_connections(rig, CHANNEL, 0);
    rig_finish(rig);
}

// --- one that dies while nobody hears it ---

#define VAN_IN_REGISTRY "'devices':[{'ident':'" VAN "','id':" VAN "}]"

static struct rig *two_that_know_the_van(const char *lines) {
    struct rig *rig = rig_with_broker(lines), *second = rig_beside(rig);
    rig_gateway_start(rig, "{" VAN_IN_REGISTRY "}");
    rig_gateway_start(second,
                      "{'mqtt':{'client_id':'second'},'commands':{'intake':false}," VAN_IN_REGISTRY "}");
    rig_expect_log(second, ": connected");
    rig_expect_state(rig);
    return rig;
}

// The second one holds the van and dies; the first one was not there to hear that.
static struct rig *second_died_unseen(void) {
    struct rig *rig = two_that_know_the_van(NULL);
    wake(rig->beside, VAN);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "true");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/instance", "\"second\"");
    rig_gateway_kill(rig);
    rig_gateway_kill(rig->beside);
    json_decref(rig_expect_standing_json(rig, "state/gw/instances/second", "{'state':'offline'}"));
    return rig;
}

STORY(instances, one_that_starts_later_speaks_for_a_dead_one) {
    struct rig *rig = second_died_unseen();
    rig_gateway_start(rig, "{" VAN_IN_REGISTRY "}");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/instance", "\"trackbus\"");
    rig_finish(rig);
}

// The first one stood still meanwhile, and lost the broker.
STORY(instances, one_that_is_back_speaks_for_a_dead_one) {
    struct rig *rig = two_that_know_the_van("persistence true\n"), *second = rig->beside;
    wake(second, VAN);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "true");
    rig_gateway_signal(rig, SIGSTOP);
    rig_gateway_kill(second);
    json_decref(rig_expect_standing_json(rig, "state/gw/instances/second", "{'state':'offline'}"));
    rig_broker_save(rig);
    rig_broker_fall_back(rig, "persistence true\n");
    rig_gateway_signal(rig, SIGCONT);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    rig_finish(rig);
}

// The two that were left when the first one died knew of each other, and neither takes commands in.
STORY(instances, the_last_one_speaks_for_all_that_are_gone) {
    struct rig *rig = two_that_know_the_van(NULL);
    wake(rig, VAN);
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "true");
    rig_publish_retained(rig, "state/gw/instances/third", "{\"state\":\"online\",\"started\":1}");
    expect_heard(rig, post_at(rig->beside, CAR)); // and so that there is a third
    rig_gateway_kill(rig);
    json_decref(rig_expect_standing_json(rig, INSTANCE, "{'state':'offline'}"));
    rig_publish_retained(rig, "state/gw/instances/third", "{\"state\":\"offline\"}");
    rig_expect_standing(rig, "state/gw/devices/" VAN "/connected", "false");
    rig_gateway_start(rig, NULL);
    rig_finish(rig);
}
