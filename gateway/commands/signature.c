// Signatures of entries; see signature.h.
#include "gateway/commands/signature.h"

#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/hex.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define DIGEST 32 // bytes
#define FIELD  "signature"

// The text that is signed: for the caller to free.
static char *signed_text(const json_t *entry, const char *key) {
    json_t *rest = must_have(json_copy((json_t *)entry));
    json_object_del(rest, FIELD);
    char *json = text_of_json(rest, TEXT_TIME_DIGITS);
    char *text = text_format("trackbus commands-queue\n%s\n%s", key, json);
    free(json);
    json_decref(rest);
    return text;
}

static void sign(const json_t *entry, const char *key, const struct command_secret *secret,
                 char hex[2 * DIGEST + 1]) {
    unsigned char digest[DIGEST];
    char *text = signed_text(entry, key);
    int result = gnutls_hmac_fast(GNUTLS_MAC_SHA256, secret->length > 0 ? secret->bytes : "", secret->length,
                                  text, strlen(text), digest);
    must_have(result == 0 ? digest : NULL); // it fails for want of memory only
    hex_write(digest, sizeof digest, hex);
    free(text);
}

void command_signature_set(json_t *entry, const char *key, const struct command_secret *secret) {
    char hex[2 * DIGEST + 1];
    sign(entry, key, secret, hex);
    json_object_set_new(entry, FIELD, json_string(hex));
}

const char *command_signature_fault(const json_t *entry, const char *key,
                                    const struct command_secret *secret) {
    const json_t *signature = json_object_get(entry, FIELD);
    char hex[2 * DIGEST + 1];
    if (signature == NULL)
        return "no gateway has signed it";
    sign(entry, key, secret, hex);
    bool right = json_string_length(signature) == 2 * DIGEST &&
                 gnutls_memcmp(json_string_value(signature), hex, 2 * DIGEST) == 0;
    return right ? NULL : "it was not signed with the key of this gateway";
}
