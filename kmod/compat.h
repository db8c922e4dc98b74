/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What differs between the kernels karena is built for (6.1 and later), under
 * the newest one's names.
 */
#ifndef _KARENA_COMPAT_H
#define _KARENA_COMPAT_H

#include <linux/mm.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "karena needs Linux 6.1 or later"
#endif
#ifndef CONFIG_64BIT
#error "karena needs a 64-bit kernel: its control pages are used by their linear addresses"
#endif
#ifndef CONFIG_TRANSPARENT_HUGEPAGE
#error "karena needs CONFIG_TRANSPARENT_HUGEPAGE: a huge frame is mapped by one PMD"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define mnt_idmap user_namespace

static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}
#endif

/* What struct kobj_type's get_ownership is given became constant. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define karena_kobj_const
#else
#define karena_kobj_const const
#endif

/* What vm_operations_struct's get_policy is given. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
#define KARENA_POLICY_ARGS	struct vm_area_struct *vma, unsigned long addr
#else
#define KARENA_POLICY_ARGS	struct vm_area_struct *vma, \
				unsigned long addr, pgoff_t *ilx
#endif

#endif /* _KARENA_COMPAT_H */
