// What vectors cannot say of the Mictrack codec: answers that are reports, the time-outs of commands, and
// what encode() refuses by itself.
#include <criterion/criterion.h>
#include <string.h>

#include "gateway/channels/stream.h"
#include "schema/properties.h"

struct seen {
    char idents[256];
    char keys[256];
    size_t messages;
    bool explicit_answer;
};

static enum codec_identity on_ident(void *context, const char *ident) {
    struct seen *seen = context;
    strcat(strcat(seen->idents, ident), " ");
    return CODEC_ACCEPTED;
}

static void on_message(void *context, struct message *message) {
    struct seen *seen = context;
    seen->messages++;
}

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    cr_assert_fail("the codec itself never answers a device");
}

static void on_answer(void *context, const struct codec_answer *answer) {
    struct seen *seen = context;
    strcat(strcat(seen->keys, answer->key), " ");
    seen->explicit_answer = seen->explicit_answer || !answer->implicit;
    cr_assert_eq(answer->implicit, answer->message != NULL);
    cr_assert_eq(answer->implicit, answer->text == NULL);
}

static void on_fault(void *context, const struct stream_fault *fault) {
    cr_assert_fail("%s: %s", fault->verdict, fault->reason);
}

static const struct stream_sink sink = {
    .identify = on_ident, .message = on_message, .reply = on_reply, .answer = on_answer, .fault = on_fault};

static struct seen see(const char *text) {
    struct seen seen = {0};
    struct stream stream;
    struct stream_counters counters = {0};
    const struct codec *codec = codec_find("mictrack");
    stream_init(&stream, codec, &sink, &seen, &counters);
    stream_feed(&stream, (const uint8_t *)text, strlen(text), CODEC_END);
    stream_free(&stream);
    return seen;
}

Test(mictrack, positions_answer_where) {
    static const char *const texts[] = {
        "MT;6;866425031361423;R0;10+190109091803+22.63827+114.02922+2.14+69+2+3744+113",
        "MT;6;866425031361423;R1;190108024848++3+3831+0",
        "MT;6;866425031361423;R2;181129081017+0,21681,20616,460+4+3976+0",
        "MT;6;866425031361423;R3;190528030445+0,167910723,14924,460,176+4+3587+11",
        "MT;6;866425031361423;R12;190108024848++0,21681,20616,460+3+3831+0",
        "MT;6;866425031361423;R13;190108024848++0,167910723,14924,460,176+3+3831+0",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct seen seen = see(texts[i]);
        cr_assert_eq(seen.messages, 1);
        cr_assert_str_eq(seen.keys, "where? ", "%s", texts[i]);
        cr_assert(!seen.explicit_answer);
        cr_assert_str_eq(seen.idents, "866425031361423 ");
    }
}

Test(mictrack, other_reports_do_not) {
    static const char *const texts[] = {
        "MT;4;866425031379169;RH;5+190116112648+0+0+0+0+11+3954+1",
        "MT;6;862785045414383;RC;V1+0+120+0+720+0+32+1",
        "MT;6;866425031377981;Y1;190108024848+x,6a:db:54:5a:79:6d,-91+3+3831+0",
        "MT;6;866425031377981;R9;1+2",
        "867035041390699$091803.00,A,2238.2962,N,11401.7532,E,1.2,69,45.5,090119",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct seen seen = see(texts[i]);
        cr_assert_eq(seen.messages, 1);
        cr_assert_str_eq(seen.keys, "", "%s", texts[i]);
    }
}

Test(mictrack, an_imei_before_an_answer_identifies) {
    struct seen seen = see("867035041390699 mode=Success!\r\n867035047590649\r\napn=Fail!\r\n");
    cr_assert_str_eq(seen.idents, "867035041390699 867035047590649 ");
    cr_assert_str_eq(seen.keys, "mode apn ");
    cr_assert(seen.explicit_answer);
}

// --- commands ---

static uint8_t bytes[CODEC_COMMAND_MAX];
static struct codec_expectation expectation;
static char reason[CODEC_REASON_MAX];

static enum codec_verdict encode(const char *name, const char *payload, size_t capacity) {
    struct property property = {.name = "payload", .type = PROPERTY_TEXT, .text = payload};
    struct codec_command command = {.name = name, .properties = {.items = &property, .count = 1}};
    struct codec_writer writer = {.bytes = bytes, .capacity = capacity};
    memset(&expectation, 0xff, sizeof expectation);
    *reason = '\0';
    return codec_find("mictrack")
        ->encode(NULL, &(struct codec_setting){0}, &command, &writer, &expectation, reason);
}

Test(mictrack, an_update_has_its_own_time_and_two_answers) {
    cr_assert_eq(encode("custom", "OtaStart,h:21,a,b,c,1#", sizeof bytes), CODEC_OK);
    cr_assert_str_eq(expectation.key, "otastart");
    cr_assert_eq(expectation.timeout, 15 * 60);
    cr_assert(expectation.final_after_progress);
}

Test(mictrack, other_commands_have_the_usual_time_and_one_answer) {
    static const char *const names[] = {"reboot", "rconf", "factoryreset", "where?"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        cr_assert_eq(encode(names[i], "", sizeof bytes), CODEC_OK);
        cr_assert_str_eq(expectation.key, names[i]);
        cr_assert_eq(expectation.timeout, 0);
        cr_assert(!expectation.final_after_progress);
    }
    cr_assert(codec_find("mictrack")->one_at_a_time);
}

Test(mictrack, what_a_device_must_not_be_sent_is_refused_without_a_schema_too) {
    static char text[257];
    memset(text, 'a', 256);
    cr_assert_eq(encode("custom", text, sizeof bytes), CODEC_BAD_VALUE);
    text[255] = '\0';
    cr_assert_eq(encode("custom", text, sizeof bytes), CODEC_OK);
    cr_assert_eq(encode("custom", text, 254), CODEC_BAD_VALUE);
    cr_assert_eq(encode("custom", "a\r\n", sizeof bytes), CODEC_BAD_VALUE);
    cr_assert(*reason != '\0');
    cr_assert_eq(encode("custom", "\x7f", sizeof bytes), CODEC_BAD_VALUE);
    cr_assert_eq(encode("custom", "\xc3\xa9", sizeof bytes), CODEC_BAD_VALUE);
    cr_assert_eq(encode("custom", " ~", sizeof bytes), CODEC_OK);
    cr_assert_eq(encode("fly", "", sizeof bytes), CODEC_UNSUPPORTED);
    cr_assert(*reason != '\0');
}
