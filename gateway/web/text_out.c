// A text that grows; see text_out.h.
#include "gateway/web/text_out.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "schema/utf8.h"

static void make_room(struct text_out *out, size_t more) {
    size_t wanted = out->length + more + 1;
    if (wanted <= out->capacity)
        return;
    out->capacity = out->capacity * 2 > wanted ? out->capacity * 2 : wanted + 256;
    out->text = must_have(realloc(out->text, out->capacity));
}

void text_out_bytes(struct text_out *out, const char *bytes, size_t length) {
    make_room(out, length);
    memcpy(out->text + out->length, bytes, length);
    out->length += length;
    out->text[out->length] = '\0';
}

void text_out_print(struct text_out *out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *text = text_vformat(format, arguments);
    va_end(arguments);
    text_out_bytes(out, text, strlen(text));
    free(text);
}

static void write_escaped(struct text_out *out, unsigned char c) {
    if (c == '"' || c == '\\')
        text_out_bytes(out, (char[]){'\\', (char)c}, 2);
    else
        text_out_print(out, "\\u%04x", c);
}

static void write_string(struct text_out *out, const char *text) {
    text_out_bytes(out, "\"", 1);
    while (*text != '\0') {
        size_t plain = 0;
        while ((unsigned char)text[plain] >= ' ' && text[plain] != '"' && text[plain] != '\\')
            plain++;
        text_out_bytes(out, text, plain);
        text += plain;
        if (*text != '\0')
            write_escaped(out, (unsigned char)*text++);
    }
    text_out_bytes(out, "\"", 1);
}

void text_out_string(struct text_out *out, const char *text) {
    if (utf8_valid(text, strlen(text))) {
        write_string(out, text);
        return;
    }
    char *mended = must_have(strdup(text));
    utf8_mend(mended);
    write_string(out, mended);
    free(mended);
}

void text_out_member(struct text_out *out, const char *name) {
    if (out->length > 0 && out->text[out->length - 1] != '{')
        text_out_bytes(out, ",", 1);
    text_out_bytes(out, "\"", 1);
    text_out_bytes(out, name, strlen(name)); // our own: nothing in it is to be escaped
    text_out_bytes(out, "\":", 2);
}

void text_out_member_string(struct text_out *out, const char *name, const char *text) {
    text_out_member(out, name);
    text_out_string(out, text);
}

void text_out_member_number(struct text_out *out, const char *name, double number) {
    char text[32];
    if (isnan(number) || isinf(number))
        return;
    text_out_member(out, name);
    text_out_bytes(out, text, (size_t)snprintf(text, sizeof text, "%.10g", number));
}

void text_out_member_integer(struct text_out *out, const char *name, int64_t number) {
    char text[32];
    text_out_member(out, name);
    text_out_bytes(out, text, (size_t)snprintf(text, sizeof text, "%lld", (long long)number));
}

void text_out_member_seconds(struct text_out *out, const char *name, int64_t microseconds) {
    char text[32];
    if (microseconds <= 0)
        return;
    text_out_member(out, name);
    int length = snprintf(text, sizeof text, "%lld.%03d", (long long)(microseconds / 1000000),
                          (int)(microseconds % 1000000 / 1000));
    text_out_bytes(out, text, (size_t)length);
}

void text_out_member_bool(struct text_out *out, const char *name, bool value) {
    text_out_member(out, name);
    text_out_bytes(out, value ? "true" : "false", value ? 4 : 5);
}

char *text_out_take(struct text_out *out, size_t *length) {
    char *text = out->text != NULL ? out->text : must_have(strdup(""));
    if (length != NULL)
        *length = out->length;
    *out = (struct text_out){0};
    return text;
}

void text_out_free(struct text_out *out) {
    free(out->text);
    *out = (struct text_out){0};
}
