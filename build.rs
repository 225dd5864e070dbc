//! Compiles the engine and our glue into the library, and writes the C header.
//!
//! The engine's sources are not ours and not committed: `vendor/fetch` brings them. Where its behaviour has to change, a
//! single function is replaced in a single file by a `-D` below; vendor/glue says what each replacement is for.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Functions that the named engine file calls by another name: (file, engine's or libc's name, ours in vendor/glue).
/// With parameters, it is a call of a pointer that gets other arguments.
const REPLACED: &[(&str, &[(&str, &str)])] = &[
    (
        "src/server.c",
        &[
            ("raft_bootstrap", "glue_never_bootstrap"),
            ("pthread_create", "glue_thread_create"),
            ("close", "glue_close"),
        ],
    ),
    (
        "src/lib/transport.c",
        &[
            ("uv_read_start", "glue_read_start"),
            ("uv_read_stop", "glue_read_stop"),
            ("uv_write", "glue_conn_write"),
        ],
    ),
    (
        "src/lib/sm.c",
        &[
            ("getpid", "glue_trace_pid"),
            ("snprintf", "glue_trace_text"),
            ("vsnprintf", "glue_trace_list"),
        ],
    ),
    ("src/db.c", &[("sqlite3_open_v2", "glue_open_v2")]),
    (
        "src/fsm.c",
        &[
            ("db__open", "glue_fsm_open"),
            ("VfsApply", "glue_vfs_apply"),
            ("VfsRestore", "glue_fsm_restore"),
            ("VfsAcquireSnapshot", "glue_fsm_acquire"),
            ("sqlite3_close", "glue_fsm_close"),
        ],
    ),
    ("src/registry.c", &[("db__close", "glue_db_close")]),
    (
        "src/leader.c",
        &[
            ("sqlite3_prepare_v2", "glue_prepare"),
            ("sqlite3_stmt_readonly", "glue_stmt_readonly"),
            ("sqlite3_progress_handler", "glue_progress_handler"),
            ("sqlite3_close_v2", "glue_close_v2"),
            ("VfsAbort", "glue_vfs_abort"),
            ("raft_apply", "glue_apply"),
            ("raft_barrier", "glue_barrier"),
            ("VfsPoll", "glue_vfs_poll"),
        ],
    ),
    (
        "src/conn.c",
        &[
            ("transport__write", "glue_transport_write"),
            ("message__decode", "glue_message_decode"),
            ("gateway__handle", "glue_gateway_handle"),
            ("raftProxyAccept", "glue_raft_accept"),
            ("gateway__close_leader", "glue_gateway_close_leader"),
            ("gateway__close", "glue_gateway_close"),
        ],
    ),
    (
        "src/gateway.c",
        &[
            ("sqlite3_step", "glue_step_to_end"),
            ("sqlite3_finalize", "glue_finalize"),
            ("query__batch", "glue_query_batch"),
            ("stmt__registry_get", "glue_stmt_get"),
            ("stmt__registry_add", "glue_stmt_add"),
            ("raft_remove", "glue_raft_remove"),
            ("leader_exec", "glue_leader_exec"),
            ("leader_exec_resume", "glue_exec_resume"),
            ("VfsAcquireSnapshot", "glue_acquire_dump"),
            ("sqlite3_close", "glue_close_conn"),
            (
                "async_work(io, work, done)",
                // With its declaration, because no header of the engine has it.
                "async_work(io, work, ({ extern raft_io_async_work_cb \
                 glue_work_done(struct gateway *, raft_io_async_work_cb); glue_work_done(g, done); }))",
            ),
        ],
    ),
    (
        "src/raft/uv_segment.c",
        &[("byteCrc32", "glue_crc32"), ("raft_aligned_alloc", "glue_log_buffer")],
    ),
    (
        "src/raft/uv.c",
        &[
            ("UvList", "glue_list_to_load"),
            ("UvSnapshotLoad", "glue_snapshot_load"),
        ],
    ),
    // Only for a line below.
    ("src/raft/client.c", &[]),
    ("src/raft/snapshot.c", &[]),
    ("src/raft/configuration.c", &[("raft_malloc", "glue_raft_zeroed")]),
    ("src/raft/uv_encoding.c", &[("raft_malloc", "glue_raft_zeroed")]),
    (
        "src/raft/uv_prepare.c",
        &[
            ("UvFsAllocateFile", "glue_allocate_segment"),
            ("uv_queue_work", "glue_queue_disk"),
        ],
    ),
    (
        "src/raft/uv_snapshot.c",
        &[
            ("byteCrc32", "glue_crc32"),
            ("uv_queue_work", "glue_queue_disk"),
            ("UvFsMakeFile", "glue_make_file"),
            ("UvFsMakeCompressedFile", "glue_make_compressed_file"),
            ("UvFsReadFile", "glue_read_snapshot"),
            ("UvFsReadCompressedFile", "glue_read_snapshot"),
        ],
    ),
    (
        "src/raft/replication.c",
        &[
            ("progressMaybeDecrement", "glue_progress_decrement"),
            ("progressShouldReplicate", "glue_should_replicate"),
            ("progressToSnapshot", "glue_to_snapshot"),
            ("logAcquire", "glue_log_acquire"),
            ("logSnapshot", "glue_log_snapshot"),
        ],
    ),
    (
        "src/raft/recv_append_entries_result.c",
        &[("replicationUpdate", "glue_replication_update")],
    ),
    (
        "src/raft/recv.c",
        &[
            ("recvRequestVote", "glue_recv_request_vote"),
            ("recvInstallSnapshot", "glue_recv_install_snapshot"),
            ("convertToFollower", "glue_convert_to_follower"),
            ("convertToUnavailable", "glue_convert_to_unavailable"),
        ],
    ),
    (
        "src/raft/tick.c",
        &[
            ("convertToFollower", "glue_convert_to_follower"),
            ("convertToUnavailable", "glue_convert_to_unavailable"),
        ],
    ),
    // Only for a line below.
    ("src/raft/election.c", &[]),
    ("src/raft/log.c", &[]),
    ("src/raft/uv_append.c", &[]),
    (
        "src/raft/uv_finalize.c",
        &[
            ("UvFsTruncateAndRenameFile", "glue_truncate_and_rename"),
            ("UvFsSyncDir", "glue_sync_dir"),
            ("uv_queue_work", "glue_queue_disk"),
        ],
    ),
    ("src/raft/uv_truncate.c", &[("uv_queue_work", "glue_queue_disk")]),
    ("src/raft/uv_list.c", &[]),
    ("src/raft/convert.c", &[]),
    ("src/raft/recv_append_entries.c", &[]),
    ("src/raft/start.c", &[]),
    ("src/raft/uv_send.c", &[("uv_write", "glue_raft_write")]),
    (
        "src/raft/uv_recv.c",
        &[
            ("uv_read_start", "glue_raft_read_start"),
            ("uvDecodeMessage", "glue_decode_message"),
            ("uv_close", "glue_raft_link_close"),
        ],
    ),
    (
        "src/raft/uv_fs.c",
        &[
            ("read", "glue_read_on"),
            ("UvOsWrite", "glue_os_write"),
            ("UvOsIoSetup", "glue_io_setup"),
            ("UvOsIoSubmit", "glue_io_submit"),
            ("UvOsIoGetevents", "glue_io_getevents"),
            ("UvOsIoDestroy", "glue_io_destroy"),
        ],
    ),
    (
        "src/raft/uv_writer.c",
        &[
            ("UvOsIoSetup", "glue_io_setup"),
            ("UvOsIoSubmit", "glue_io_submit"),
            ("UvOsIoGetevents", "glue_io_getevents"),
            ("UvOsIoDestroy", "glue_io_destroy"),
            ("uv_queue_work", "glue_queue_write"),
        ],
    ),
    ("src/raft/uv_work.c", &[("uv_queue_work", "glue_queue_work")]),
    ("src/transport.c", &[("uv_queue_work", "glue_queue_work")]),
    (
        "src/vfs.c",
        &[
            ("sqlite3_set_authorizer", "glue_set_authorizer"),
            ("mremap", "glue_shm_remap"),
        ],
    ),
    ("src/tracing.c", &[("getenv", "glue_getenv")]),
];

/// Lines of the engine that no macro reaches: (file, name of the cure, the line, what stands there instead).
const LINES: &[(&str, &str, &str, &str)] = &[
    // A snapshot is one message, so no database of more than 500 MiB ever reached another node.
    (
        "src/raft/uv_recv.c",
        "MAX_PAYLOAD_LEN",
        "#define MAX_PAYLOAD_LEN (500 * 1024 * 1024)",
        "#define MAX_PAYLOAD_LEN ((size_t)64 << 30)",
    ),
    // A write larger than a segment that a crash cut off leaves a file that ends within it. For those within a segment's
    // size zeros follow, which is taken for what it is; this was an error at every start from then on.
    (
        "src/raft/uv_segment.c",
        "cut_off",
        "rv = uvLoadEntriesBatch(&buf, &tmp_entries, &tmp_n_entries,",
        "size_t began = offset; rv = uvLoadEntriesBatch(&buf, &tmp_entries, &tmp_n_entries,",
    ),
    (
        "src/raft/uv_segment.c",
        "cut_off",
        "if (rv != RAFT_CORRUPT) {",
        "if (rv == RAFT_IOERR) { offset = began; rv = RAFT_CORRUPT; } if (rv != RAFT_CORRUPT) {",
    ),
    // What a segment holds behind the first batch that cannot be read was dropped without a word: vendor/glue/storage.c.
    (
        "src/raft/uv_segment.c",
        "trail",
        "if (!all_zeros) {",
        "extern void glue_left_trail(const char *, size_t); if (!all_zeros) { glue_left_trail(info->filename, offset);",
    ),
    // Who votes is the candidate's business: it asks those that are voters as far as it knows, and counts no others. A member
    // that had not heard yet of its promotion refused, and a leader that went right behind it left a cluster without one, for
    // good, although two of three voters were there.
    (
        "src/raft/election.c",
        "unheard",
        "if (local_server == NULL || local_server->role != RAFT_VOTER) {",
        "if (local_server == NULL) {",
    ),
    // One vote a term: a server to which the lead was to be handed on could get a second one.
    (
        "src/raft/election.c",
        "transferee",
        "r->voted_for != args->candidate_id && !is_transferee) {",
        "r->voted_for != args->candidate_id) {",
    ),
    // A leader that its followers cannot answer went on for one election timeout or two: vendor/glue/election.c.
    (
        "src/raft/tick.c",
        "deaf",
        "if (now - r->election_timer_start >= r->election_timeout) {",
        "extern bool glue_is_deaf(struct raft *); if (glue_is_deaf(r)) { convertToFollower(r); return 0; } \
         if (now - r->election_timer_start >= r->election_timeout) {",
    ),
    // A follower that agrees with a message told the leader how long its own log is. What stands behind the message's entries
    // may be what it wrote alone when it led, and was counted and applied as if it were the leader's.
    (
        "src/raft/recv_append_entries.c",
        "leftovers",
        "result->last_log_index = r->last_stored;",
        "result->last_log_index = r->last_stored < args->prev_log_index + args->n_entries ? r->last_stored \
         : args->prev_log_index + args->n_entries;",
    ),
    // A WAL of more than 33 MB, that nobody could checkpoint for the readers of it, is looked through from its end; the
    // parts of its index before that, not mapped yet, were an assertion.
    (
        "src/vfs.c",
        "shm_regions",
        "PRE(region_index == f->mappedShmRegions.len);",
        "while (f->mappedShmRegions.len < region_index) { void volatile *before; \
         int failed = vfsMainFileShmMap(file, f->mappedShmRegions.len, region_size, extend, &before); \
         if (failed != SQLITE_OK || before == NULL) { *out = NULL; return failed; } }",
    ),
    // A write transaction is to be invisible until it is applied, so its view of the WAL's index is its own meanwhile. What
    // tells others of it is in the first part of the index. The further parts, 32 KiB for each 16 MB of WAL, hold entries
    // that nobody looks at before the first part names them, and SQLite itself clears away those of a transaction that came
    // to nothing; to swap and copy all of them twice made each INSERT of a large database take a millisecond.
    (
        "src/vfs.c",
        "shm_private",
        "for (int regionIndex = 0; regionIndex < f->mappedShmRegions.len;",
        "for (int regionIndex = 0; regionIndex < region_per_map && regionIndex < f->mappedShmRegions.len;",
    ),
    (
        "src/vfs.c",
        "shm_private",
        "for (int i = region_per_map; i < f->mappedShmRegions.len;",
        "for (int i = region_per_map; i < region_per_map;",
    ),
    (
        "src/vfs.c",
        "shm_private",
        "for (int i = 0; i < f->mappedShmRegions.len; i += region_per_map) {\n\t\tvoid *new_region =",
        "for (int i = 0; i < region_per_map && i < f->mappedShmRegions.len; i += region_per_map) {\n\t\tvoid *new_region =",
    ),
    (
        "src/vfs.c",
        "shm_private",
        "f->exclMask ? MAP_PRIVATE : MAP_SHARED, s->fd,",
        "f->exclMask && region_index == 0 ? MAP_PRIVATE : MAP_SHARED, s->fd,",
    ),
    // What a savepoint took back after it had left the cache stays behind the frame that ends the transaction. The engine
    // looked for the end at the last frame only, and gave up the whole transaction, which was acknowledged.
    (
        "src/vfs.c",
        "savepoint",
        "struct vfsFrame *last = w->tx[w->n_tx - 1];\n\tuint32_t commit = vfsFrameGetDatabaseSize(last);",
        "unsigned kept = w->n_tx; while (kept > 0 && vfsFrameGetDatabaseSize(w->tx[kept - 1]) == 0) { kept--; } \
         while (kept > 0 && w->n_tx > kept) { vfsFrameDestroy(w->tx[--w->n_tx]); } \
         uint32_t commit = kept > 0 ? vfsFrameGetDatabaseSize(w->tx[kept - 1]) : 0;",
    ),
    // A text that does not compile on a node that was cut off may be right to the leader: vendor/glue/lease.c.
    (
        "src/leader.c",
        "errors",
        "if (req->status != 0) {\n\t\t\t\treq->status = RAFT_ERROR;",
        "if (req->status != 0) { extern int glue_prove_error(struct raft *, struct raft_barrier *, raft_barrier_cb); \
         req->status = glue_prove_error(leader->raft, &req->barrier, exec_prepare_barrier_cb); \
         if (req->status == RAFT_OK) { suspend; }",
    ),
    // Whether there is memory for a transaction: vendor/glue/shortage.c.
    (
        "src/leader.c",
        "encode",
        "int rv = command__encode(COMMAND_FRAMES, &c, &buf);",
        "extern int glue_encode(struct exec *, const struct command_frames *, struct raft_buffer *); \
         int rv = glue_encode(req, &c, &buf);",
    ),
    // The second statement of a text waited behind a writer without a timer, also if it was a read, and was begun when that had
    // ended, be it amid a stop. It has not been looked at yet, so it may always go on; a write waits like others then.
    (
        "src/leader.c",
        "second",
        "if (db->active_leader == req->leader) {\n\t\t/* make sure",
        "if (db->active_leader == req->leader || sm_state(&req->sm) == EXEC_INITED) {\n\t\t/* make sure",
    ),
    (
        "src/leader.c",
        "second",
        "if (db->active_leader == NULL || db->active_leader == req->leader) {\n\t\tqueue_remove",
        "if (db->active_leader == NULL || db->active_leader == req->leader || sm_state(&req->sm) == EXEC_INITED) {\n\t\tqueue_remove",
    ),
    (
        "src/leader.c",
        "second",
        "if (req != NULL) {\n\t\t\t\tPRE(IN(db->active_leader, NULL, req->leader));\n\t\t\t\tdb->active_leader = req->leader;",
        "if (req != NULL && sm_state(&req->sm) == EXEC_INITED) { return exec_tick(req); } \
         if (req != NULL) { PRE(IN(db->active_leader, NULL, req->leader)); db->active_leader = req->leader;",
    ),
    // And where there it finds nothing to change, the leader may.
    (
        "src/leader.c",
        "errors",
        "if (transaction.n_pages == 0) {",
        "if (transaction.n_pages == 0) { extern bool glue_waits_for_proof(struct exec *); \
         if (glue_waits_for_proof(req)) { suspend; }",
    ),
    // A transaction of 2 GiB is more than one write to the disk, and one of 4 GiB more than the engine counts:
    // vendor/glue/unsent.c.
    (
        "src/leader.c",
        "too_large",
        "if (is_db_full(req->leader->conn, transaction->n_pages)) {\n\t\treturn SQLITE_FULL;",
        "extern bool glue_is_too_large(struct exec *, unsigned); if (glue_is_too_large(req, transaction->n_pages)) {\n\t\treturn RAFT_ERROR;",
    ),
    // A request for which there was no memory counted as under way for ever, and its connection's end waited for it.
    (
        "src/gateway.c",
        "begun",
        "struct exec *exec = raft_malloc(sizeof *exec);\n\tif (exec == NULL) {",
        "struct exec *exec = raft_malloc(sizeof *exec); if (exec == NULL) { g->req = NULL;",
    ),
    // A DUMP for which there was no memory: its failure stood behind the beginning of the answer, and read as another one.
    (
        "src/gateway.c",
        "dumped",
        "tracef(\"main dump failed\");",
        "req->buffer->offset = sizeof(uint64_t);",
    ),
    (
        "src/gateway.c",
        "dumped",
        "tracef(\"WAL dump failed\");",
        "req->buffer->offset = sizeof(uint64_t);",
    ),
    // A database for which there was no memory stood in the registry, with nothing in it set.
    (
        "src/registry.c",
        "unnamed",
        "db__init(*db, r->config, filename);",
        "if (db__init(*db, r->config, filename) != DQLITE_OK) { sqlite3_free(*db); return DQLITE_NOMEM; }",
    ),
    // A connection that is closed while it has statements lives on until the last of them: vendor/glue/interrupt.c.
    (
        "src/leader.c",
        "zombie",
        "int rc = sqlite3_close_v2(leader->conn);",
        "extern void glue_finalize_all(struct leader *); glue_finalize_all(leader); int rc = sqlite3_close_v2(leader->conn);",
    ),
    // What the log says is the size decides how many pages a snapshot or a DUMP has. The database may have more, where it
    // shrank and no checkpoint was since, and all of them were written behind the end of the list; and where it grew beyond
    // 1 GiB, the place of the page that SQLite leaves out there was never set.
    (
        "src/vfs.c",
        "shrunk",
        "for (unsigned i = 0; i < f->database->n_pages; i++) {\n\t\tpages[i] = f->database->pages[i];",
        "static const uint8_t none[65536]; for (unsigned i = 0; i < page_count; i++) { \
         pages[i] = i < f->database->n_pages ? f->database->pages[i] : (void *)none;",
    ),
    // To a question that it does not know it said that all was well, and who had asked read what nobody had written: in the
    // rows of dbstat words of the host's stack went out.
    (
        "src/vfs.c",
        "unknown_control",
        "return vfsFileControlPersistWal(f, arg);\n\t\tdefault:\n\t\t\treturn SQLITE_OK;",
        "return vfsFileControlPersistWal(f, arg);\n\t\tdefault:\n\t\t\treturn SQLITE_NOTFOUND;",
    ),
    // When a deletion may be: vendor/glue/deletion.c.
    (
        "src/vfs.c",
        "deletion",
        "tracef(\"[%s] forged delete transaction\", f->database->name);\n\t\tvfsForgeDeleteTransaction(f);",
        "extern bool glue_deletion_is_committed(void); \
         if (glue_deletion_is_committed()) { vfsForgeDeleteTransaction(f); }",
    ),
    // To ask for the deletion twice in one transaction was an assertion.
    (
        "src/vfs.c",
        "deleted_twice",
        "PRE(f->state == NORMAL);\n\tf->state = DELETING;",
        "f->state = DELETING;",
    ),
    // The page that SQLite leaves out at 1 GiB was left out again 4 GiB later, where SQLite has data.
    (
        "src/vfs.c",
        "pending_page",
        "(page_size * d->n_pages == dq_sqlite_pending_byte);",
        "((uint64_t)page_size * d->n_pages == dq_sqlite_pending_byte);",
    ),
    // Where a write transaction begins and ends: vendor/glue/shortage.c.
    (
        "src/vfs.c",
        "mremap",
        "mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE,\n\t\t\t f->database->shm.fd,",
        "({ extern void *glue_shm_map(void *, size_t, int, int, int, off_t); glue_shm_map; })\
         (NULL, map_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, f->database->shm.fd,",
    ),
    (
        "src/vfs.c",
        "mremap",
        "mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED,\n\t\t\t f->database->shm.fd,",
        "({ extern void *glue_shm_map(void *, size_t, int, int, int, off_t); glue_shm_map; })\
         (NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->database->shm.fd,",
    ),
    (
        "src/vfs.c",
        "mremap",
        "mmap(NULL, map_size, PROT_READ | PROT_WRITE,\n\t\t\t\t\t MAP_SHARED, f->database->shm.fd, 0);",
        "({ extern void *glue_shm_map(void *, size_t, int, int, int, off_t); glue_shm_map; })\
         (NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->database->shm.fd, 0);",
    ),
    // A checkpoint for which there is no memory was an assertion. The next transaction tries again.
    (
        "src/vfs.c",
        "checkpoint_memory",
        "dqlite_assert(rv == SQLITE_OK);\n\tdqlite_assert(wal_size == 0);",
        "if (rv == SQLITE_NOMEM || (rv & 0xff) == SQLITE_IOERR) { f->exclMask = 0; \
         vfsShmUnlock(&f->database->shm, 0, SQLITE_SHM_NLOCK, true); return rv; } \
         dqlite_assert(rv == SQLITE_OK); dqlite_assert(wal_size == 0);",
    ),
    // What could not be applied for want of memory kept the lock that it could be applied with.
    (
        "src/vfs.c",
        "apply",
        "f->database->n_pages, transaction->n_pages);\n\t\treturn rv;",
        "f->database->n_pages, transaction->n_pages); \
         if (f->state != POLLED) { vfsShmUnlock(&f->database->shm, VFS__WAL_WRITE_LOCK, 1, true); } return rv;",
    ),
    (
        "src/raft/replication.c",
        "apply",
        "rv = r->fsm->apply(r->fsm, buf);",
        "extern int glue_fsm_apply(struct raft *, const struct raft_buffer *); rv = glue_fsm_apply(r, buf);",
    ),
    // What could not be written to the log was looked for behind its end, and not taken out of it.
    (
        "src/raft/client.c",
        "discarded",
        "logDiscard(r->log, index);\n\tqueue_remove(&req->queue);\n\tsm_fail",
        "if (logLastIndex(r->log) >= start) { logDiscard(r->log, start); } queue_remove(&req->queue); sm_fail",
    ),
    // Members that were to be changed, and the log did not take that: the list was freed that was in use from then on, and so
    // was the request, of which raft kept hold. Both are as they were before.
    (
        "src/raft/client.c",
        "unchanged",
        "raft_term term = r->current_term;\n\tint rv;\n\n\t(void)req;",
        "raft_term term = r->current_term; int rv; struct raft_configuration before = r->configuration; (void)req;",
    ),
    (
        "src/raft/client.c",
        "unchanged",
        "rv = progressRebuildArray(r, configuration);\n\t\tif (rv != 0) {\n\t\t\tgoto err;",
        "rv = progressRebuildArray(r, configuration); if (rv != 0) { logTruncate(r->log, index); goto err;",
    ),
    (
        "src/raft/client.c",
        "unchanged",
        "raft_configuration_close(&r->configuration);\n\t\tr->configuration = *configuration;",
        "r->configuration = *configuration;",
    ),
    (
        "src/raft/client.c",
        "unchanged",
        "r->configuration_uncommitted_index = index;\n\n\treturn 0;",
        "r->configuration_uncommitted_index = index; \
         if (configuration != &r->configuration) { raft_configuration_close(&before); } return 0;",
    ),
    (
        "src/raft/client.c",
        "unchanged",
        "err_after_log_append:\n\tlogTruncate(r->log, index);\n\nerr:",
        "err_after_log_append: logTruncate(r->log, index); if (configuration != &r->configuration) { \
         int failed = progressRebuildArray(r, &before); dqlite_assert(failed == 0); r->configuration = before; } err:",
    ),
    (
        "src/raft/client.c",
        "unchanged",
        "tracef(\"clientChangeConfiguration failed %d\", rv);",
        "r->leader_state.change = NULL;",
    ),
    // The same where the log says so later.
    (
        "src/raft/replication.c",
        "rolled_back",
        "if (r->state == RAFT_LEADER) {\n\t\t\tconvertToFollower(r);\n\t\t}\n\t}\n}",
        "if (r->state == RAFT_LEADER) { convertToFollower(r); } \
         if (r->state == RAFT_FOLLOWER && r->configuration_uncommitted_index > logLastIndex(r->log)) { \
         int failed = membershipRollback(r); dqlite_assert(failed == 0); } } }",
    ),
    // The log's writer closed a descriptor and then took it out of epoll, when its number may be another thread's.
    (
        "src/raft/uv_writer.c",
        "closed_early",
        "UvOsClose(w->event_fd);\n\n\trv = uv_poll_stop(&w->event_poller);",
        "rv = uv_poll_stop(&w->event_poller);",
    ),
    (
        "src/raft/uv_writer.c",
        "closed_early",
        "uv_close((struct uv_handle_s *)&w->event_poller, uvWriterPollerCloseCb);\n\n\t/* If we have requests",
        "uv_close((struct uv_handle_s *)&w->event_poller, uvWriterPollerCloseCb);\n\tUvOsClose(w->event_fd);\n\n\t/* If we have requests",
    ),
    // Snapshots of dqlite before 1.17, with the WAL beside the database: whether a page is missing was read from memory that
    // was never set, one place before the first new page, which where all pages are new is none; and the one that
    // SQLite leaves out at 1 GiB is missing rightly.
    (
        "src/fsm.c",
        "old_snapshots",
        "pages = wal_pages;",
        "pages = wal_pages; static const uint8_t none[65536]; \
         memset(pages + main_page_count, 0, sizeof(void *) * (wal_page_count - main_page_count)); \
         size_t pending = 0x40000000 / page_size; \
         if (pending >= main_page_count && pending < wal_page_count) { pages[pending] = (void *)none; }",
    ),
    (
        "src/fsm.c",
        "old_snapshots",
        "for (size_t page_number = main_page_count;",
        "for (size_t page_number = main_page_count + 1;",
    ),
    // A snapshot for which there was no memory closed its connection twice.
    (
        "src/fsm.c",
        "closed_twice",
        "sqlite3_close(snapshot->conn);",
        "sqlite3_close(snapshot->conn); snapshot->conn = NULL;",
    ),
    // Memory of the pages: vendor/glue/pages.c.
    (
        "src/vfs.c",
        "pages",
        "f->page = sqlite3_malloc64(size);",
        "extern void *glue_page_new(sqlite3_uint64); f->page = glue_page_new(size);",
    ),
    (
        "src/vfs.c",
        "pages",
        "sqlite3_free(f->page);",
        "extern void glue_page_free(void *); glue_page_free(f->page);",
    ),
    (
        "src/vfs.c",
        "pages",
        "*page = sqlite3_malloc64(page_size);",
        "extern void *glue_page_new(sqlite3_uint64); extern void glue_page_free(void *); *page = glue_page_new(page_size);",
    ),
    (
        "src/vfs.c",
        "pages",
        "void *pending_byte_page = sqlite3_malloc64(page_size);",
        "void *pending_byte_page = glue_page_new(page_size); if (pending_byte_page != NULL) { memset(pending_byte_page, 0, page_size); }",
    ),
    ("src/vfs.c", "pages", "sqlite3_free(*page);", "glue_page_free(*page);"),
    (
        "src/vfs.c",
        "pages",
        "sqlite3_free(*cursor);",
        "extern void glue_page_free(void *); glue_page_free(*cursor);",
    ),
    (
        "src/vfs.c",
        "pages",
        "sqlite3_free(d->pages[i]);",
        "extern void glue_page_free(void *); glue_page_free(d->pages[i]);",
    ),
    (
        "src/vfs.c",
        "pages",
        "void *page = sqlite3_malloc64(snapshot->page_size);",
        "extern void *glue_page_restored(const struct vfsSnapshot *, size_t); void *page = glue_page_restored(snapshot, i);",
    ),
    (
        "src/vfs.c",
        "pages",
        "memcpy(page, snapshot->pages[i], snapshot->page_size);",
        "",
    ),
    (
        "src/vfs.c",
        "pages",
        "sqlite3_free(pages[j]);",
        "extern void glue_page_free(void *); glue_page_free(pages[j]);",
    ),
    (
        "src/leader.c",
        "pages",
        "sqlite3_free(transaction.pages[i]);",
        "extern void glue_page_free(void *); glue_page_free(transaction.pages[i]);",
    ),
    (
        "src/raft/snapshot.c",
        "pages",
        "rv = r->fsm->restore(r->fsm, &snapshot->bufs[0]);",
        "extern int glue_restore(struct raft_fsm *, struct raft_buffer *); rv = glue_restore(r->fsm, &snapshot->bufs[0]);",
    ),
    (
        "src/fsm.c",
        "pages",
        "/* Don't use sqlite3_free as this buffer is allocated by raft. */\n\traft_free(buf->base);",
        "",
    ),
    // A snapshot of the leader's that could not be stored, or not be restored, counted as installed: vendor/glue/storage.c.
    (
        "src/raft/replication.c",
        "installed",
        "tracef(\"save snapshot %\"",
        "extern void glue_not_installed(void); glue_not_installed(); tracef(\"save snapshot %\"",
    ),
    (
        "src/raft/replication.c",
        "installed",
        "tracef(\"restore snapshot %\"",
        "extern void glue_not_installed(void); glue_not_installed(); tracef(\"restore snapshot %\"",
    ),
    // A snapshot that a leader could not read, for want of memory or of descriptors, counted as sent for half a minute.
    (
        "src/raft/replication.c",
        "unread",
        "tracef(\"get snapshot %s\", raft_strerror(status));\n\t\tgoto abort;",
        "raft_free(snapshot); i = configurationIndexOf(&r->configuration, req->server_id); \
         if (r->state == RAFT_LEADER && i < r->configuration.n && progressState(r, i) == PROGRESS__SNAPSHOT) { \
         progressAbortSnapshot(r, i); } goto abort;",
    ),
    // Nobody looked whether a segment of the log could get its final name: vendor/glue/storage.c.
    (
        "src/raft/uv_finalize.c",
        "finished",
        "uv->errored = true;",
        "extern void glue_not_finished(void); uv->errored = true; if (!uv->closing) { glue_not_finished(); }",
    ),
    // A leader that was deposed stands for election with what its disk has not taken yet; if the disk then refuses it, the
    // votes are for a log that is not there any more.
    (
        "src/raft/replication.c",
        "claimed",
        "index = request->index;\n\traft_free(request);",
        "index = request->index; raft_free(request); \
         if (status != 0 && r->state == RAFT_CANDIDATE) { convertToFollower(r); }",
    ),
    // A candidate without memory for its votes stayed one, and counted them nowhere.
    (
        "src/raft/convert.c",
        "no_votes",
        "if (r->candidate_state.votes == NULL) {\n\t\treturn RAFT_NOMEM;",
        "if (r->candidate_state.votes == NULL) { convertSetState(r, RAFT_FOLLOWER); return RAFT_NOMEM;",
    ),
    // What a snapshot of the leader's was to replace is still there if a crash came between. If it held another entry in the
    // snapshot's place, that was an assertion at each start from then on.
    (
        "src/raft/uv.c",
        "replaced",
        "last_index = *start_index + *n - 1;",
        "last_index = *start_index + *n - 1; \
         raft_index common = *snapshot != NULL ? (*snapshot)->index : 0; \
         if (common >= *start_index && common <= last_index && \
         (*entries)[common - *start_index].term != (*snapshot)->term) { \
         for (size_t i = n_segments; i-- > 0;) { \
         rv = segments[i].is_open ? 0 : UvFsRemoveFile(uv->dir, segments[i].filename, uv->io->errmsg); \
         if (rv != 0) { goto err; } } \
         rv = UvFsSyncDir(uv->dir, uv->io->errmsg); \
         if (rv != 0) { goto err; } \
         entryBatchesDestroy(*entries, *n); *entries = NULL; *n = 0; \
         *start_index = common + 1; last_index = common; }",
    ),
    // What was appended from inside the callback of a write that failed took that one's place on the disk, and stands behind it
    // in raft's log. lease.c sees to it that nobody does so; here it is refused.
    (
        "src/raft/uv_append.c",
        "amid_failures",
        "/* Flush the append requests in the given queue, firing their callbacks with the\n * given status. */\nstatic void",
        "static __thread unsigned failing;\nstatic void",
    ),
    (
        "src/raft/uv_append.c",
        "amid_failures",
        "queue_remove(head);\n\t\tappend_done(append, status);\n\t}",
        "queue_remove(head); failing += status != 0; append_done(append, status); failing -= status != 0; }",
    ),
    (
        "src/raft/uv_append.c",
        "amid_failures",
        "rv = uvCheckEntryBuffersAligned(uv, entries, n);\n\tif (rv != 0) {",
        "rv = failing > 0 ? RAFT_IOERR : uvCheckEntryBuffersAligned(uv, entries, n);\n\tif (rv != 0) {",
    ),
    // Without memory for what was read of a segment its buffer was freed twice.
    (
        "src/raft/uv_segment.c",
        "freed_twice",
        "err_after_batch_load:\n\traft_free(tmp_entries[0].batch);\n\traft_free(tmp_entries);",
        "err_after_batch_load:\n\traft_free(tmp_entries);",
    ),
    (
        "src/raft/uv_segment.c",
        "freed_twice",
        "err_after_read:\n\tif (buf.base != NULL) {",
        "err_after_read:\n\tif (buf.base != NULL && n_batches == 0) {",
    ),
    // The end of a compressed snapshot, where its checksum is, was not read if it came with the next piece.
    (
        "src/raft/uv_fs.c",
        "checksum",
        "while (output_offset < output_buffer_size) {",
        "while (output_offset < output_buffer_size || lzrv != 0) {",
    ),
    // A snapshot without memory for its name was written to the host's descriptor 0, which was closed then.
    (
        "src/raft/uv_fs.c",
        "mkstemp",
        "if (rv == -1) {\n\t\tUvOsErrMsg(errmsg, \"mkstemp\", rv);",
        "if (rv < 0) { uv_fs_req_cleanup(&temp_file); UvOsErrMsg(errmsg, \"mkstemp\", rv);",
    ),
    // Where the directory could not be listed, what was never set was freed.
    (
        "src/raft/uv_list.c",
        "listed",
        "n = uv_fs_scandir(NULL, &req, dir, 0, NULL);",
        "*snapshots = NULL; *segments = NULL; *n_snapshots = *n_segments = 0; \
         n = uv_fs_scandir(NULL, &req, dir, 0, NULL);",
    ),
    // Segments behind the one that is cut go from the last one on, so that a crash leaves no gap.
    (
        "src/raft/uv_truncate.c",
        "gap",
        "for (j = i; j < n_segments; j++) {",
        "for (j = n_segments; j-- > i;) {",
    ),
    // A truncation asked for while a snapshot was being written waited for nothing but the end of a segment that was idle, and
    // was forgotten with it: what it was to remove stayed, and what came behind it had the same places in the log.
    (
        "src/raft/uv_append.c",
        "forgotten",
        "segment->barrier = barrier;\n\n\t\tif (segment == uvGetCurrentAliveSegment(uv)) {",
        "segment->barrier = barrier;\n\n\t\tif (segment == uvGetCurrentAliveSegment(uv) && uv->barrier == NULL) {",
    ),
    (
        "src/raft/uv_append.c",
        "forgotten",
        "!s->writer.closing) {",
        "!s->writer.closing && (s->barrier == NULL || s->barrier == uv->barrier)) {",
    ),
    // What could not be handed to the disk stayed queued behind its request's end: vendor/glue/storage.c.
    (
        "src/raft/uv_append.c",
        "written",
        "are not lost. */\n\t\t\tgoto err;",
        "are not lost. */ extern void glue_not_written(void); glue_not_written(); goto err;",
    ),
    (
        "src/raft/uv_append.c",
        "written",
        "rv = uvAliveSegmentWrite(segment);\n\tif (rv != 0) {",
        "rv = uvAliveSegmentWrite(segment); if (rv != 0) { extern void glue_not_written(void); glue_not_written();",
    ),
    // A segment that could not be used for want of a descriptor kept its own.
    (
        "src/raft/uv_append.c",
        "unused",
        "tracef(\"prepare segment ready failed (%d)\", rv);",
        "UvOsClose(req->fd);",
    ),
    // An entry that comes again while it is still being sent was put behind its place in the log.
    (
        "src/raft/log.c",
        "reinstated",
        "l->back++;\n\t\t\tl->back %= l->size;\n\t\t\tentry = &l->entries[l->back];",
        "if (sm_state(&slot->sm) != ENTRY_CREATED) { sm_init(&slot->sm, entry_invariant, NULL, entry_states, \"entry\", \
         ENTRY_CREATED); } entry = &l->entries[l->back]; l->back++; l->back %= l->size;",
    ),
    // What arrives on a link is looked at first: vendor/glue/link.c.
    (
        "src/raft/start.c",
        "forged",
        "rv = r->io->start(r->io, r->heartbeat_timeout, tickCb, recvCb);",
        "extern void glue_recv(struct raft_io *, struct raft_message *); \
         rv = r->io->start(r->io, r->heartbeat_timeout, tickCb, glue_recv);",
    ),
    // When a snapshot is due: vendor/glue/snapshot.c.
    (
        "src/raft/replication.c",
        "snapshot_due",
        "if (r->last_applied - r->log->snapshot.last_index <\n\t    r->snapshot.threshold) {",
        "extern bool glue_snapshot_is_due(struct raft *); if (!glue_snapshot_is_due(r)) {",
    ),
    // A snapshot that could not be begun, for want of memory or of a database's lock, ended the node; it is tried again
    // with the next entry.
    (
        "src/raft/replication.c",
        "begun",
        "\t\trv = takeSnapshot(r);",
        "\t\ttakeSnapshot(r); rv = RAFT_OK;",
    ),
    // And what of the log stays on the disk behind it: vendor/glue/trailing.c.
    (
        "src/raft/replication.c",
        "disk_trailing",
        "rv = r->io->snapshot_put(r->io, r->snapshot.trailing, &r->snapshot.put,",
        "extern unsigned glue_trailing_on_disk(struct raft *, raft_index); \
         rv = r->io->snapshot_put(r->io, glue_trailing_on_disk(r, snapshot->index), &r->snapshot.put,",
    ),
];

/// Cures that are no replaced function. `vendor/glue` sees them as `CURE_<NAME>`, 1 or 0.
const CURES_IN_C: &[&str] = &[
    "adopted",
    "assertions",
    "behind",
    "bind",
    "checkpoints",
    "deleted",
    "discard",
    "doubt",
    "early",
    "ended",
    "errors",
    "falling",
    "further",
    "halves",
    "lease",
    "members",
    "regained",
    "reserve",
    "schema",
    "sent_again",
    "signals",
    "silent",
    "stop",
    "stop_here",
    "stopped",
    "tail",
    "unsent",
    "unwind",
    "whole",
];

/// Cures of `REPLACED` and `LINES` that other glue has to know of; it sees `CURE_<NAME>` for them as well.
const CALLED_IN_C: &[&str] = &["leader_exec_resume", "pages", "query__batch", "zombie"];

/// The same in Rust, where `cfg!(without = "<name>")` is true if one is left out.
const CURES_IN_RUST: &[&str] = &["admission", "atfork", "checks", "prefix", "signals"];

/// What the engine's build would have found out, and would have its flags be.
const DEFINED: &[&str] = &[
    "-D_GNU_SOURCE",
    "-D_FILE_OFFSET_BITS=64",
    "-DHAVE_LINUX_AIO_ABI_H=1",
    "-DHAVE_LINUX_IO_URING_H=1",
    "-DLZ4_AVAILABLE",
    "-DLZ4_ENABLED",
    "-DRAFT_API=",
    "-DDQLITE_API=",
    // Sends the engine's assertions to dqlite_fail, which vendor/glue/fail.c defines.
    "-DDQLITE_ASSERT_WITH_BACKTRACE",
    "-DHAVE_EXECINFO_H",
];

/// Needs a test framework and is no part of the library.
const LEFT_OUT: &str = "src/raft/fixture.c";

/// Symbols whose callers are sent to `__wrap_<symbol>` in vendor/glue/fail.c, turn.c and reserve.c.
#[rustfmt::skip] // scripts/static-lib reads it as one line
const WRAPPED: &[&str] = &["abort", "__assert_fail", "uv__threadpool_cleanup", "epoll_pwait", "malloc", "calloc", "realloc", "free", "malloc_usable_size", "__cxa_thread_atexit_impl"];

/// Cures to leave out, with commas between: functions of `REPLACED`, symbols of `WRAPPED`, or names of the two lists above.
/// Only scripts/cures builds so, to see that the tests notice.
const WITHOUT: &str = "DQLITEPY_WITHOUT";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() {
    if let Err(error) = build() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let engine = root.join("vendor/dqlite");
    if !engine.join("include/dqlite.h").is_file() {
        return Err("the engine's sources are not in vendor/dqlite: run vendor/fetch (or make) first".into());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=vendor/dqlite");
    println!("cargo:rerun-if-changed=vendor/glue");
    println!("cargo:rerun-if-env-changed={WITHOUT}");

    let without = left_out()?;
    let includes = include_dirs(&engine)?;
    note_flags(&includes)?;
    // One archive, because engine and glue need each other and GNU ld reads every archive only once.
    let mut library = cc::Build::new();
    library.objects(compile_engine(&engine, &includes, &without)?);
    library.objects(compile_glue(&root.join("vendor/glue"), &engine, &includes, &without)?);
    library.compile("dqlite_engine");
    bind(&root, &engine, &includes)?;
    write_header(&root)?;
    link(&without);
    Ok(())
}

/// The cures that this build is to do without; none, unless somebody proves that they are needed.
fn left_out() -> Result<Vec<String>> {
    let replaced = REPLACED
        .iter()
        .flat_map(|(_, functions)| functions.iter().map(|(theirs, _)| *theirs));
    let known: Vec<&str> = replaced
        .chain(LINES.iter().map(|(_, name, ..)| *name))
        .chain(WRAPPED.iter().chain(CURES_IN_C).chain(CURES_IN_RUST).copied())
        .collect();
    println!(
        "cargo:rustc-check-cfg=cfg(without, values(\"{}\"))",
        CURES_IN_RUST.join("\", \"")
    );
    let without: Vec<String> = env::var(WITHOUT)
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect();
    for name in &without {
        if !known.contains(&name.as_str()) {
            return Err(format!(
                "{WITHOUT} names {name}, which is no cure; there are: {}",
                known.join(", ")
            )
            .into());
        }
        println!("cargo:warning=this library is built without the cure {name}: only for the test that needs it");
        if CURES_IN_RUST.contains(&name.as_str()) {
            println!("cargo:rustc-cfg=without=\"{name}\"");
        }
    }
    Ok(without)
}

fn include_dirs(engine: &Path) -> Result<Vec<PathBuf>> {
    Ok(vec![
        engine.join("src"),
        engine.join("include"),
        PathBuf::from(env::var("DEP_SQLITE3_INCLUDE")?),
        libuv_include()?,
        PathBuf::from(env::var("DEP_LZ4_INCLUDE")?),
    ])
}

/// For tests-c/run, which compiles raft alone.
fn note_flags(includes: &[PathBuf]) -> Result<()> {
    let includes = includes.iter().map(|dir| format!("-I{}", dir.display()));
    let flags: Vec<String> = DEFINED.iter().map(ToString::to_string).chain(includes).collect();
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("flags"), flags.join("\n"))?;
    Ok(())
}

/// libuv-sys2 tells its dependants only a relative path, so cargo is asked where the crate lies.
fn libuv_include() -> Result<PathBuf> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        .current_dir(env::var("CARGO_MANIFEST_DIR")?)
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let manifest = text
        .split("\"manifest_path\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .find(|path| {
            Path::new(path)
                .parent()
                .and_then(Path::file_name)
                .is_some_and(|name| name.to_string_lossy().starts_with("libuv-sys2"))
        })
        .ok_or("cargo metadata does not name the crate libuv-sys2, whose headers the engine needs")?;
    Ok(Path::new(manifest).with_file_name("libuv").join("include"))
}

fn compiler(includes: &[PathBuf]) -> cc::Build {
    let mut cc = cc::Build::new();
    cc.includes(includes)
        .flag("-std=gnu11")
        .flag("-fno-strict-aliasing")
        .flag("-fvisibility=hidden")
        // Its result would be cut to an int.
        .flag("-Werror=implicit-function-declaration")
        .flags(DEFINED);
    cc
}

/// For the engine's own files.
fn engine_compiler(includes: &[PathBuf]) -> cc::Build {
    let mut cc = compiler(includes);
    cc.warnings(false).flag("-include").flag("vendor/glue/quiet.h");
    cc
}

fn compile_engine(engine: &Path, includes: &[PathBuf], without: &[String]) -> Result<Vec<PathBuf>> {
    let mut plain = engine_compiler(includes);
    for file in sources(&engine.join("src"))? {
        let name = file.strip_prefix(engine)?.to_string_lossy().into_owned();
        if name != LEFT_OUT && !REPLACED.iter().any(|(changed, _)| *changed == name) {
            plain.file(file);
        }
    }
    let mut objects = plain.try_compile_intermediates()?;
    if let Some((name, ..)) = LINES
        .iter()
        .find(|(name, ..)| !REPLACED.iter().any(|(changed, _)| changed == name))
    {
        return Err(
            format!("LINES changes {name}, which REPLACED does not name: it would be compiled as it is").into(),
        );
    }

    for (number, (name, replacements)) in REPLACED.iter().enumerate() {
        // Compiled twice, one of the two would be linked and the other one's replacements lost.
        if REPLACED.iter().skip(number + 1).any(|(other, _)| other == name) {
            return Err(format!("REPLACED names {name} twice").into());
        }
        let file = engine.join(name);
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let mut changed = engine_compiler(includes);
        changed.file(with_lines(name, &file, &text, without)?);
        if let Some(dir) = file.parent() {
            changed.flag("-iquote").flag(dir);
        }
        for (theirs, ours) in *replacements {
            let called = theirs.split('(').next().unwrap_or(theirs);
            if !text.contains(&format!("{called}(")) {
                return Err(format!("{name} no longer calls {theirs}: vendor/glue does not fit this dqlite").into());
            }
            if !without.iter().any(|name| name == theirs) {
                changed.define(theirs, *ours);
            }
        }
        objects.extend(changed.try_compile_intermediates()?);
    }
    Ok(objects)
}

/// The file itself, or a copy with other lines.
fn with_lines(name: &str, file: &Path, text: &str, without: &[String]) -> Result<PathBuf> {
    let mut changed = text.to_owned();
    let left_out = |cure: &str| without.iter().any(|name| name == cure);
    for (_, cure, line, instead) in LINES.iter().filter(|(of, cure, ..)| *of == name && !left_out(cure)) {
        if !text.contains(line) {
            return Err(
                format!("{name} no longer has the line {line}: {cure} in build.rs does not fit this dqlite").into(),
            );
        }
        changed = changed.replace(line, instead);
    }
    let copy = PathBuf::from(env::var("OUT_DIR")?).join(name);
    if changed == text {
        // tests-c/raft takes what it finds there.
        let _ = fs::remove_file(copy);
        return Ok(file.to_owned());
    }
    fs::create_dir_all(copy.parent().ok_or("no directory for the copy")?)?;
    fs::write(&copy, changed)?;
    Ok(copy)
}

fn compile_glue(glue: &Path, engine: &Path, includes: &[PathBuf], without: &[String]) -> Result<Vec<PathBuf>> {
    let mut cc = compiler(includes);
    cc.warnings(true).flag("-Wno-unused-parameter").include(engine);
    for name in CURES_IN_C.iter().chain(CALLED_IN_C) {
        let is_in = !without.iter().any(|left_out| left_out == name);
        cc.define(&format!("CURE_{}", name.to_uppercase()), if is_in { "1" } else { "0" });
    }
    if env::var_os("CARGO_CFG_SANITIZED").is_some() {
        cc.define("DQLITEPY_SANITIZED", None);
    }
    for file in sources(glue)? {
        cc.file(file);
    }
    Ok(cc.try_compile_intermediates()?)
}

/// All C files below `dir`, sorted, so that builds are alike.
fn sources(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "c") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn bind(root: &Path, engine: &Path, includes: &[PathBuf]) -> Result<()> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    bindgen::Builder::default()
        .header(root.join("vendor/glue/glue.h").to_string_lossy())
        .header(engine.join("include/dqlite.h").to_string_lossy())
        .clang_args(includes.iter().map(|dir| format!("-I{}", dir.display())))
        .allowlist_function("glue_.*|dqlite_version_number")
        .allowlist_type("glue_.*")
        .allowlist_var("GLUE_.*|glue_.*|DQLITE_VERSION_.*")
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate()?
        .write_to_file(out.join("bindings.rs"))?;
    Ok(())
}

/// The C header as the sources say it. A test compares it with include/dqlitepy.h; `make header` copies it there.
fn write_header(root: &Path) -> Result<()> {
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/ffi");
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    // cbindgen follows the `mod` lines from there.
    let builder = cbindgen::Builder::new()
        .with_config(config)
        .with_src(root.join("src/ffi/mod.rs"));
    let mut generated = Vec::new();
    builder.generate()?.write(&mut generated);
    let text = without_safety(&String::from_utf8(generated)?).replace("@VERSION@", &env::var("CARGO_PKG_VERSION")?);
    let out = PathBuf::from(env::var("OUT_DIR")?).join("dqlitepy.h");
    fs::write(&out, text)?;
    println!("cargo:rustc-env=DQLITEPY_GENERATED_HEADER={}", out.display());
    Ok(())
}

/// Rust's safety sections repeat, for Rust's tools, what the comment above them says of each pointer.
fn without_safety(header: &str) -> String {
    let mut text = String::new();
    let mut skipping = false;
    for line in header.lines() {
        if line == " * # Safety" {
            skipping = true;
            if text.ends_with(" *\n") {
                text.truncate(text.len() - " *\n".len());
            }
        }
        skipping &= line != " */";
        if !skipping {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

fn link(without: &[String]) {
    for symbol in WRAPPED {
        if !without.iter().any(|name| name == symbol) {
            println!("cargo:rustc-link-arg=-Wl,--wrap={symbol}");
        }
    }
    // benches/engine.rs lets the engine listen where the glue does not.
    println!("cargo:rustc-link-arg-benches=-Wl,--wrap=dqlite_node_set_bind_address");
    // For packages that link this one (fuzz/): their programs need the same.
    println!("cargo:wrapped={}", WRAPPED.join(","));
    // SQLite's mathematical functions.
    println!("cargo:rustc-link-lib=m");
    // A symbol that nobody defines is found here and not by the first user.
    // The fuzzer's runtime is linked into its programs only.
    if env::var_os("CARGO_CFG_FUZZING").is_none() {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
    }
    // The engine's threads and the pthread_atfork handler outlive a dlclose.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdqlitepy.so");
}
