// The certificate and its key; see certificate.h.
#include "gateway/web/certificate.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define FILE_MAX (1 << 20) // bytes

char *certificate_read(const char *path) {
    FILE *file = fopen(path, "re");
    char *text = file != NULL ? must_have(malloc(FILE_MAX)) : NULL;
    if (file == NULL)
        return NULL;
    size_t length = fread(text, 1, FILE_MAX - 1, file);
    int error = ferror(file) ? errno : 0;
    text[length] = '\0';
    fclose(file);
    if (error == 0)
        return text;
    free(text);
    errno = error;
    return NULL;
}

static void report(config_fault_fn *fault, void *context, const char *path, char *problem, unsigned *faults) {
    fault(context, path, problem);
    free(problem);
    ++*faults;
}

static char *read_or_report(const char *file, const char *path, config_fault_fn *fault, void *context,
                            unsigned *faults) {
    char *text = certificate_read(file);
    if (text == NULL)
        report(fault, context, path,
               text_format("is \"%s\", which cannot be read: %s", file, strerror(errno)), faults);
    return text;
}

// NULL when they go together.
static const char *mismatch_of(const char *certificate, const char *key) {
    gnutls_certificate_credentials_t credentials;
    gnutls_datum_t cert_datum = {(unsigned char *)certificate, (unsigned)strlen(certificate)};
    gnutls_datum_t key_datum = {(unsigned char *)key, (unsigned)strlen(key)};
    if (gnutls_certificate_allocate_credentials(&credentials) != GNUTLS_E_SUCCESS)
        must_have(NULL);
    int result =
        gnutls_certificate_set_x509_key_mem(credentials, &cert_datum, &key_datum, GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(credentials);
    return result < 0 ? gnutls_strerror(result) : NULL;
}

void certificate_check(const char *cert_file, const char *key_file, config_fault_fn *fault, void *context,
                       unsigned *faults) {
    char *certificate = read_or_report(cert_file, "$.web.cert_file", fault, context, faults);
    char *key = read_or_report(key_file, "$.web.key_file", fault, context, faults);
    const char *mismatch = certificate != NULL && key != NULL ? mismatch_of(certificate, key) : NULL;
    if (mismatch != NULL)
        report(fault, context, "$.web.cert_file",
               text_format("is \"%s\", which does not go with web.key_file as PEM: %s", cert_file, mismatch),
               faults);
    free(certificate);
    free(key);
}
