// Answers as the API gives them: JSON, or a reason why not.
#pragma once

#include <jansson.h>

#include "gateway/web/http.h"
#include "gateway/web/text_out.h"

struct http_answer reply_json(unsigned status, json_t *json);         // takes json over
struct http_answer reply_text(unsigned status, struct text_out *out); // JSON as text; out is empty afterwards
__attribute__((format(printf, 2, 3))) struct http_answer reply_fault(unsigned status, const char *format,
                                                                     ...);
