// SPDX-License-Identifier: MIT
/*
 * ka_debug_install(): the debug hooks for the domains at the program's request.
 */
#include "check/debug.h"
#include "front/domain.h"

/* Guards which domains have the hooks. */
static struct ka_mutex installing = KA_MUTEX;

static int install(enum ka_domain domain)
{
	struct ka_allocator below;

	if (ka_debug_hooks(domain))
		return 0;
	if (ka_allocator_get(domain, &below))
		return -1;
	return ka_allocator_set(domain, ka_debug_hook(domain, &below, ka_domain_heap,
						      ka_domain_lost));
}

int ka_debug_install(void)
{
	struct ka_allocator unused;
	int error = 0;

	/* First install the hooks of the environment. */
	ka_allocator_get(KA_DOMAIN_RAW, &unused);
	ka_callers_prime();
	ka_lock(&installing);
	if (!ka_debug_hooks(KA_DOMAIN_RAW))
		error = ka_debug_begin();
	for (int domain = 0; !error && domain < KARENA_DOMAINS; domain++)
		error = install((enum ka_domain)domain);
	ka_unlock(&installing);
	return error;
}
