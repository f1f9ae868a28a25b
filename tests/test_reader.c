// The bounded readers of bytes and of text.
#include <criterion/criterion.h>
#include <string.h>

#include "codecs/reader.h"

static const uint8_t bytes[] = {0x01, 0x80, 0xff, 0x7f, 0xfe, 0x12, 0x34, 0x56, 0x78};

Test(reader, integers_are_big_endian) {
    struct reader reader = reader_of(bytes, sizeof bytes);
    cr_assert_eq(reader_unsigned(&reader, 1), 0x01);
    cr_assert_eq(reader_unsigned(&reader, 2), 0x80ff);
    cr_assert_eq(reader_unsigned(&reader, 3), 0x7ffe12);
    cr_assert_eq(reader_left(&reader), 3);
    cr_assert_eq(reader_unsigned(&reader, 3), 0x345678);
    cr_assert_eq(reader_left(&reader), 0);
    cr_assert(!reader.fault);
    reader = reader_of(bytes, sizeof bytes);
    cr_assert_eq(reader_unsigned(&reader, 8), 0x0180ff7ffe123456);
}

Test(reader, signed_integers_are_twos_complement) {
    static const uint8_t all[] = {0xff, 0x80, 0x7f, 0xff, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff};
    struct reader reader = reader_of(all, sizeof all);
    cr_assert_eq(reader_signed(&reader, 1), -1);
    cr_assert_eq(reader_signed(&reader, 1), -128);
    cr_assert_eq(reader_signed(&reader, 1), 127);
    cr_assert_eq(reader_signed(&reader, 2), -2);
    cr_assert_eq(reader_signed(&reader, 8), INT64_MIN);
    cr_assert_eq(reader_signed(&reader, 3), -1);
    cr_assert(!reader.fault);
}

Test(reader, a_fault_is_sticky) {
    struct reader reader = reader_of(bytes, 3);
    cr_assert_eq(reader_unsigned(&reader, 2), 0x0180);
    cr_assert_eq(reader_unsigned(&reader, 2), 0, "one byte is left");
    cr_assert(reader.fault);
    cr_assert_eq(reader_left(&reader), 0);
    cr_assert_eq(reader_unsigned(&reader, 1), 0, "what is left is not given after a fault");
    cr_assert_eq(reader_signed(&reader, 1), 0);
    cr_assert_eq(reader_signed(&reader, 8), 0);
    cr_assert_null(reader_bytes(&reader, 1));
    cr_assert(reader_part(&reader, 1).fault);
    cr_assert(reader.fault);
}

Test(reader, bytes_and_parts) {
    struct reader reader = reader_of(bytes, sizeof bytes);
    cr_assert_eq(reader_bytes(&reader, 2), bytes);
    struct reader part = reader_part(&reader, 3);
    cr_assert_eq(reader_unsigned(&part, 3), 0xff7ffe);
    cr_assert_eq(reader_unsigned(&part, 1), 0, "a part does not reach its neighbour");
    cr_assert(part.fault && !reader.fault);
    cr_assert_eq(reader_unsigned(&reader, 1), 0x12);
    cr_assert_eq(reader_bytes(&reader, 0), bytes + 6);
    cr_assert(reader_part(&reader, 4).fault);
    cr_assert(reader.fault);
    reader = reader_of(bytes, sizeof bytes);
    cr_assert_null(reader_bytes(&reader, SIZE_MAX));
}

Test(reader, of_nothing) {
    struct reader reader = reader_of(bytes, 0);
    cr_assert_eq(reader_left(&reader), 0);
    cr_assert(!reader.fault);
    cr_assert_eq(reader_unsigned(&reader, 1), 0);
    cr_assert(reader.fault);
}

// --- text ---

static struct text_reader text_of(const char *text) {
    return text_reader_of(text, strlen(text));
}

static struct span span_of(const char *text) {
    return (struct span){.text = text, .length = strlen(text)};
}

static void check_item(struct text_reader *reader, const char *expected) {
    struct span item = text_item(reader, '+');
    cr_assert(span_is(item, expected), "expected %s, came %.*s", expected, (int)item.length, item.text);
}

Test(text_reader, items) {
    struct text_reader reader = text_of("a++bc+");
    check_item(&reader, "a");
    check_item(&reader, "");
    check_item(&reader, "bc");
    cr_assert(text_has_item(&reader));
    check_item(&reader, "");
    cr_assert(!text_has_item(&reader) && !reader.fault);
    check_item(&reader, "");
    cr_assert(reader.fault, "there is no item after the last");
}

Test(text_reader, empty_text_is_one_empty_item) {
    struct text_reader reader = text_of("");
    cr_assert(text_has_item(&reader));
    check_item(&reader, "");
    cr_assert(!reader.fault && !text_has_item(&reader));
}

Test(text_reader, digits_and_expect) {
    struct text_reader reader = text_of("120x7");
    cr_assert(span_is(text_digits(&reader), "120"));
    text_expect(&reader, 'x');
    cr_assert(span_is(text_digits(&reader), "7"));
    cr_assert(!reader.fault);
    cr_assert(span_is(text_digits(&reader), ""));
    cr_assert(reader.fault, "no digit is left");
    reader = text_of("x");
    text_expect(&reader, 'y');
    cr_assert(reader.fault);
    reader = text_of("");
    text_expect(&reader, '\0');
    cr_assert(reader.fault, "nothing is left to pass");
}

Test(text_reader, a_fault_is_sticky) {
    struct text_reader reader = text_of("12+34");
    text_expect(&reader, 'x');
    cr_assert(reader.fault);
    cr_assert(!text_has_item(&reader));
    cr_assert(span_is(text_digits(&reader), ""));
    check_item(&reader, "");
    cr_assert(span_is(text_rest(&reader), ""));
    text_expect(&reader, '1');
    cr_assert(reader.fault);
}

Test(text_reader, rest) {
    struct text_reader reader = text_of("a+b+c");
    check_item(&reader, "a");
    cr_assert(span_is(text_rest(&reader), "b+c"));
    cr_assert(span_is(text_rest(&reader), ""));
    reader = text_of("a");
    check_item(&reader, "a");
    cr_assert(span_is(text_rest(&reader), ""));
    cr_assert(!reader.fault);
}

Test(span, comparisons) {
    cr_assert(span_is(span_of("R0"), "R0"));
    cr_assert(!span_is(span_of("R0"), "R01") && !span_is(span_of("R01"), "R0") &&
              !span_is(span_of("r0"), "R0"));
    cr_assert(span_is_word(span_of("OtaStart"), "otastart"));
    cr_assert(!span_is_word(span_of("ota"), "otastart") && !span_is_word(span_of("otastart"), "ota"));
    cr_assert(span_is_word(span_of(""), ""));
    cr_assert(!span_is_word(span_of("@"), "`"), "only letters have a case");
}

Test(span, a_nul_is_not_the_end_of_a_word) {
    static const char word[] = "ota";
    cr_assert(!span_is_word((struct span){.text = "OTA\0\0", .length = 5}, word));
    cr_assert(!span_is_word((struct span){.text = "OTA\0x", .length = 4}, word));
}

Test(span, digits) {
    cr_assert(span_all_digits(span_of("0123456789")));
    cr_assert(!span_all_digits(span_of("")) && !span_all_digits(span_of("1 ")) &&
              !span_all_digits(span_of("-1")));
    cr_assert(!span_all_digits(span_of("1/")) && !span_all_digits(span_of("1:")));
}

Test(span, trim) {
    cr_assert(span_is(span_trim(span_of(" \t a b\t ")), "a b"));
    cr_assert(span_is(span_trim(span_of(" \t ")), ""));
    cr_assert(span_is(span_trim(span_of("\na\r")), "\na\r"));
}

Test(span, integer) {
    int64_t value = 42;
    cr_assert(span_integer(span_of("-00815"), &value) && value == -815);
    cr_assert(span_integer(span_of("999999999999999999"), &value) && value == 999999999999999999);
    value = 42;
    cr_assert(!span_integer(span_of("1000000000000000000"), &value) && !span_integer(span_of(""), &value));
    cr_assert(!span_integer(span_of("1.5"), &value) && !span_integer(span_of("1x"), &value) && value == 42);
}
