// Answers of the API; see reply.h.
#include "gateway/web/reply.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

static const char json_media[] = "application/json";

struct http_answer reply_json(unsigned status, json_t *json) {
    char *text = text_of_json(json, TEXT_TIME_DIGITS);
    json_decref(json);
    struct http_answer answer = http_text(status, json_media, text, strlen(text));
    http_add(answer, "Cache-Control", "no-store");
    return answer;
}

struct http_answer reply_text(unsigned status, struct text_out *out) {
    size_t length;
    char *text = text_out_take(out, &length);
    struct http_answer answer = http_text(status, json_media, text, length);
    http_add(answer, "Cache-Control", "no-store");
    return answer;
}

struct http_answer reply_fault(unsigned status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *reason = text_vformat(format, arguments);
    va_end(arguments);
    json_t *fault = json_pack("{s:s}", "reason", reason);
    free(reason);
    return reply_json(status, fault != NULL ? fault : json_pack("{s:s}", "reason", "not found"));
}
