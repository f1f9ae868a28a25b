// What of the dictionary is not generated.
#include "schema/field.h"

const char *field_type_name(enum field_type type) {
    static const char *const names[] = {
        [FIELD_NUMBER] = "number",
        [FIELD_BOOLEAN] = "boolean",
        [FIELD_STRING] = "string",
        [FIELD_LIST] = "list",
    };
    return names[type];
}
