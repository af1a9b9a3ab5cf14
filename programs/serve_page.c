#include "serve.h"

const char serve_page[] = "<!doctype html><title>kvant</title><p>kvant";
