// Magicyo: what needs more frames or more bytes than a vector should have.
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "tests/bytes.h"
#include "tests/replay.h"

#define WINDOW 64

// The checksum that the tests put into their frames; the values are zlib's.
Test(magicyo, the_checksum_of_the_tests_is_adler_32) {
    static uint8_t many[100000];
    memset(many, 0xFF, sizeof many);
    cr_assert_eq(bytes_adler32((const uint8_t *)"Wikipedia", 9), 0x11E60398);
    cr_assert_eq(bytes_adler32(many, sizeof many), 0x149a302c);
}

static void feed_heartbeat_of(struct replay *replay, const char *imei, unsigned id) {
    uint8_t frame[MAGICYO_FRAME_MAX];
    replay_feed(replay, frame, bytes_magicyo(frame, imei, 0x0C, id, "", 0), CODEC_OPEN);
}

static void feed_heartbeat(struct replay *replay, unsigned id) {
    feed_heartbeat_of(replay, "864867022511015", id);
}

// A frame id is remembered over 63 others, and forgotten when 64 came after it.
Test(magicyo, a_repeat_is_known_among_the_last_64_frames) {
    struct replay replay;
    replay_begin(&replay, codec_find("magicyo"));
    for (unsigned id = 65500; id < 65500 + WINDOW; id++) // the counter goes through 65535
        feed_heartbeat(&replay, id & 0xFFFF);
    cr_assert(replay.counters.messages == WINDOW);
    for (unsigned id = 65500; id < 65500 + WINDOW; id++)
        feed_heartbeat(&replay, id & 0xFFFF);
    cr_assert(replay.counters.messages == WINDOW, "a repeat among the last 64 was published");
    feed_heartbeat(&replay, 1000);
    feed_heartbeat(&replay, 65501);
    cr_assert(replay.counters.messages == WINDOW + 1, "the second of the window was published again");
    feed_heartbeat(&replay, 65500);
    cr_assert(replay.counters.messages == WINDOW + 2, "what is no longer among the last 64 is a new frame");
    cr_assert(replay.counters.verdicts[CODEC_OK] == 2 * WINDOW + 3);
    replay_end(&replay);
}

// What a relay says for many devices does not fill the memory; who was heard longest ago begins anew.
Test(magicyo, a_thousand_devices_of_a_connection_are_remembered) {
    struct replay replay;
    char imei[16];
    replay_begin(&replay, codec_find("magicyo"));
    for (unsigned i = 0; i <= STREAM_DEVICES_MAX; i++) {
        sprintf(imei, "86486702%07u", i);
        feed_heartbeat_of(&replay, imei, 7);
    }
    cr_assert(replay.counters.messages == STREAM_DEVICES_MAX + 1);
    feed_heartbeat_of(&replay, "864867020000001", 7);
    feed_heartbeat_of(&replay, imei, 7);
    cr_assert(replay.counters.messages == STREAM_DEVICES_MAX + 1, "a repeat was published");
    feed_heartbeat_of(&replay, "864867020000000", 7);
    cr_assert(replay.counters.messages == STREAM_DEVICES_MAX + 2, "the oldest is still remembered");
    feed_heartbeat_of(&replay, "864867020000001", 7);
    cr_assert(replay.counters.messages == STREAM_DEVICES_MAX + 2, "one that had spoken since was forgotten");
    cr_assert(replay.stream.session_count == STREAM_DEVICES_MAX);
    replay_end(&replay);
}

// Framing goes over junk in large pieces and looks at each of them once, so that it takes linear time.
Test(magicyo, junk_is_skipped_in_large_pieces) {
    static uint8_t bytes[8 * 1024 * 1024];
    static const uint8_t fills[] = {0x55, 0xAA, 0x00, 0xFF, '5'};
    const struct codec *codec = codec_find("magicyo");
    for (size_t f = 0; f < sizeof fills; f++) {
        size_t at = 0, calls = 0;
        memset(bytes, fills[f], sizeof bytes);
        while (at < sizeof bytes) {
            size_t left = sizeof bytes - at, window = left < codec->frame_max ? left : codec->frame_max;
            struct codec_frame frame =
                codec->frame(bytes + at, window, window < left ? CODEC_OPEN : CODEC_END);
            cr_assert(frame.kind == CODEC_SKIP && frame.length >= 1 && frame.length <= window);
            at += frame.length;
            calls++;
        }
        cr_assert(calls <= sizeof bytes / (codec->frame_max - 32) + 1, "%zu calls of frame() for %02x", calls,
                  fills[f]);
    }
}

Test(magicyo, a_session_is_small) {
    cr_assert(codec_find("magicyo")->session_size < 256);
}
