// Why a connection was closed; the numbers are flespi's.
#pragma once

enum close_code {
    CLOSE_NONE = 0,
    CLOSE_BY_DEVICE = 2,
    CLOSE_VIOLATION = 4,
    CLOSE_PARSE_ERROR = 6,
    CLOSE_RESTART = 7,
    CLOSE_SAME_IDENT = 12,
    CLOSE_REJECTED = 13,
    CLOSE_INACTIVE = 17,
    CLOSE_NOT_THIS_PROTOCOL = 19,
    CLOSE_LIMIT = 20,
};

// What that means, for the log.
const char *close_code_text(enum close_code code);
