/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Differences between the kernels for which karena can be built (6.1 to 6.13, 6.18 to 7.3),
 * under the names of the newest one.
 *
 * karena_uring_keep() writes to private members of io_uring, in struct io_kiocb and
 * io_uring_cmd: for a few kernels there is no other way. Nothing else here relies on
 * another subsystem's private state.
 */
#ifndef _KARENA_COMPAT_H
#define _KARENA_COMPAT_H

#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/kthread.h>
#include <linux/list_lru.h>
#include <linux/mm.h>
#include <linux/nodemask.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/task_work.h>
#include <linux/version.h>

#include <uapi/linux/karena.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#include <linux/io_uring.h>
#include <linux/io_uring_types.h>
#else
#include <linux/io_uring/cmd.h>
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "karena needs Linux 6.1 or later"
#endif
/*
 * From 6.14 on, MADV_DONTNEED frees empty page tables (CONFIG_PT_RECLAIM), also a table that
 * the fault handler has just installed so that the core maps no huge frame there. A process
 * would then read the pages that its copies hide. From 6.18 on, the handler needs no such
 * table: see KARENA_MAPS_HUGE.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(6, 18, 0)
#error "karena cannot run on Linux 6.14 to 6.17: use 6.13 or earlier, or 6.18 or later"
#endif
/* The last kernel on which the selftests ran. dkms.conf.in has the same bound. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 4, 0)
#error "karena was tested on Linux up to 7.3: use one of those, or a newer karena"
#endif
/* Other architectures may need another flush after a change of a PMD. */
#if !defined(CONFIG_X86_64) && !defined(CONFIG_ARM64)
#error "karena needs an x86-64 or arm64 kernel"
#endif
#ifndef CONFIG_TRANSPARENT_HUGEPAGE
#error "karena needs CONFIG_TRANSPARENT_HUGEPAGE: a huge frame is mapped by one PMD"
#endif
#if PAGE_SHIFT != 12
#error "karena needs a kernel with pages of 4 KiB: an arena is one PMD of 512 of them"
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define mnt_idmap user_namespace

static inline void vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
	vma->vm_flags |= flags;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
/* These kernels have no locks of single VMAs, only mmap_lock. */
static inline void vma_start_write(struct vm_area_struct *vma)
{
}
#endif

/*
 * Address of a weak function, or NULL. The address is read from a variable. Otherwise the
 * compiler for arm64 would use a global offset table, which modules do not have there.
 */
#define karena_weak(_function)						\
({									\
	static typeof(_function) *_address = _function;			\
									\
	READ_ONCE(_address);						\
})

/*
 * Debian exports this function, because its binder is a module. Linux itself does not, so
 * the reference is weak: where the kernel has no such symbol, it is NULL.
 */
int task_work_add(struct task_struct *task, struct callback_head *work,
		  enum task_work_notify_mode notify) __weak;

/*
 * Call a function when the current thread returns to user mode or ends. Returns 0 if it
 * will be called.
 */
static inline int karena_task_work_add(struct callback_head *work)
{
	typeof(task_work_add) *add = karena_weak(task_work_add);

	return add ? add(current, work, TWA_RESUME) : -EOPNOTSUPP;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 1, 0)
#define karena_zap	zap_vma_range
#else
/* Debian alone exports these two as well. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
void zap_page_range(struct vm_area_struct *vma, unsigned long address,
		    unsigned long size) __weak;
#else
void zap_page_range_single(struct vm_area_struct *vma, unsigned long address,
			   unsigned long size, struct zap_details *details) __weak;
#endif

/* Unmap pages from one mapping; or, by the slower way, from all mappings of its file. */
static inline void karena_zap(struct vm_area_struct *vma, unsigned long address,
			      unsigned long size)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	typeof(zap_page_range) *zap = karena_weak(zap_page_range);

	if (zap) {
		zap(vma, address, size);
		return;
	}
#else
	typeof(zap_page_range_single) *zap = karena_weak(zap_page_range_single);

	if (zap) {
		zap(vma, address, size, NULL);
		return;
	}
#endif
	unmap_mapping_range(vma->vm_file->f_mapping,
			    ((loff_t)vma->vm_pgoff << PAGE_SHIFT) + address - vma->vm_start,
			    size, 1);
}
#endif

/* A fault that the core has to repeat drops the lock with which the core called. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
static inline void karena_release_fault_lock(struct vm_fault *vmf)
{
	mmap_read_unlock(vmf->vma->vm_mm);
}
#else
#define karena_release_fault_lock	release_fault_lock
#endif

/* Arguments of huge_fault in struct vm_operations_struct. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
#define KARENA_HUGE_ARGS	struct vm_fault *vmf, enum page_entry_size order
#define karena_huge_order(_order)	((_order) == PE_SIZE_PMD)
#else
#define KARENA_HUGE_ARGS	struct vm_fault *vmf, unsigned int order
#define karena_huge_order(_order)	((_order) == PMD_ORDER)
#endif

/*
 * Kernels whose finish_fault() maps only one page of a folio that lies beyond the end of the
 * file, and which have vmf_insert_folio_pmd(). There, karena_fault() maps huge frames.
 */
#define KARENA_MAPS_HUGE	(LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0))

/* Returns a PMD as a write would leave it. */
static inline pmd_t karena_pmd_mkwrite(pmd_t pmd)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
	pmd = pmd_mkwrite(pmd);
#else
	pmd = pmd_mkwrite_novma(pmd);
#endif
#if defined(CONFIG_X86) && LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	pmd = pmd_clear_saveddirty(pmd);
#endif
	return pmd_mkdirty(pmd_mkyoung(pmd));
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#define pmd_uffd_wp	pmd_uffd
#endif

/* On arm64, set_pmd_at() also initializes memory tags, which no frame has. */
#ifdef CONFIG_ARM64
#define karena_set_pmd(_mm, _address, _pmdp, _pmd)	set_pmd(_pmdp, _pmd)
#else
#define karena_set_pmd	set_pmd_at
#endif

/*
 * Whether the module may make a PMD writable. A processor may still have the old entry in its
 * TLB. A write that meets this entry faults, and the fault has to drop it. On x86 the
 * processor does so; on arm64 the core does, from 6.19 on. Before, the module lets the core
 * unmap the frame, which drops the entry on all processors. The same fault maps it again.
 */
#if defined(CONFIG_X86) || defined(flush_tlb_fix_spurious_fault_pmd)
#define KARENA_MAKES_WRITABLE	true
#else
#define KARENA_MAKES_WRITABLE	false
#endif
#if KARENA_MAPS_HUGE && defined(CONFIG_ARM64) && !defined(flush_tlb_fix_spurious_fault_pmd)
#error "karena cannot run on Linux 6.18 on arm64: use 6.13 or earlier, or 6.19 or later"
#endif

/* Copy a page. Returns false if the hardware could not read it; the core has been told. */
static inline bool karena_copy_page(struct page *to, struct page *from)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	return !copy_mc_highpage(to, from);
#elif defined(copy_mc_to_kernel)
	/* On architectures that have this function, it ignores address and mapping. */
	if (!copy_mc_user_highpage(to, from, 0, NULL))
		return true;
	memory_failure_queue(page_to_pfn(from), 0);
	return false;
#else
	copy_highpage(to, from);
	return true;
#endif
}

/* Returns true if any page of the machine may have been reported as bad. */
static inline bool karena_memory_failed(void)
{
#ifndef CONFIG_MEMORY_FAILURE
	return false;
#elif LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
	return true;
#else
	int node;

	for_each_node_state(node, N_MEMORY) {
		if (READ_ONCE(NODE_DATA(node)->mf_stats.total))
			return true;
	}
	return false;
#endif
}

static inline const void *karena_uring_payload(const struct io_uring_cmd *cmd)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 6, 0)
	return cmd->cmd;
#elif defined(io_uring_sqe_cmd)
	/* A macro from 7.0 on, which needs the type of the payload. */
	return io_uring_sqe_cmd(cmd->sqe, struct karena_uring);
#else
	return io_uring_sqe_cmd(cmd->sqe);
#endif
}

/*
 * Keep the entry of a command that a worker will run. io_uring copies the entry, but from
 * 6.10 to 6.13 the worker sees the ring's entry, which the program may have reused.
 */
static inline void karena_uring_keep(struct io_uring_cmd *cmd, unsigned int flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0) && \
	LINUX_VERSION_CODE < KERNEL_VERSION(6, 14, 0)
	struct io_kiocb *request = cmd_to_io_kiocb(cmd);
	size_t size = sizeof(*cmd->sqe) << !!(flags & IO_URING_F_SQE128);

	if (cmd->sqe == request->async_data)
		return;
	memcpy(request->async_data, cmd->sqe, size);
	cmd->sqe = request->async_data;
#endif
}

/* The argument of get_ownership in struct kobj_type became constant. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
#define karena_kobj_const
#else
#define karena_kobj_const const
#endif

/* Arguments of get_policy in struct vm_operations_struct. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
#define KARENA_POLICY_ARGS	struct vm_area_struct *vma, unsigned long addr
#else
#define KARENA_POLICY_ARGS	struct vm_area_struct *vma, \
				unsigned long addr, pgoff_t *ilx
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#define list_lru_add_obj	list_lru_add
#define list_lru_del_obj	list_lru_del
#endif

/* Arguments of the callback of a list_lru walk. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
#define KARENA_LRU_ARGS	struct list_head *item, struct list_lru_one *list, \
			spinlock_t *lock, void *data
#else
#define KARENA_LRU_ARGS	struct list_head *item, struct list_lru_one *list, \
			void *data
#endif

/*
 * A memcg-aware list_lru needs its shrinker's id. Before 6.7 the shrinker gets its id only
 * when it is registered, so the kernel may call the shrinker before the list exists.
 */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 7, 0)
static inline struct shrinker *shrinker_alloc(unsigned int flags,
					      const char *name)
{
	struct shrinker *shrinker = kzalloc(sizeof(*shrinker), GFP_KERNEL);

	if (shrinker)
		shrinker->flags = flags;
	return shrinker;
}

static inline void shrinker_free(struct shrinker *shrinker)
{
	unregister_shrinker(shrinker);
	kfree(shrinker);
}

static inline int karena_shrinker_register(struct shrinker *shrinker,
					   struct list_lru *lru)
{
	return register_shrinker(shrinker, "karena") ?:
	       list_lru_init_memcg(lru, shrinker);
}
#else
static inline int karena_shrinker_register(struct shrinker *shrinker,
					   struct list_lru *lru)
{
	int err = list_lru_init_memcg(lru, shrinker);

	if (!err)
		shrinker_register(shrinker);
	return err;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
static inline void mm_account_reclaimed_pages(unsigned long pages)
{
	if (current->reclaim_state)
		current->reclaim_state->reclaimed_slab += pages;
}
#endif

#endif /* _KARENA_COMPAT_H */
