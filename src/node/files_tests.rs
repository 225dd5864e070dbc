use std::os::unix::fs::PermissionsExt;

use super::*;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dqlitepy-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn entry(id: u64, address: &str) -> Entry {
    Entry {
        id,
        address: address.to_owned(),
        role: 0,
    }
}

#[test]
fn info_is_written_as_go_dqlite_writes_it() {
    let dir = Dir::new("info");
    let known = entry(3_297_041_220_608_546_238, "127.0.0.1:9001");
    store_new(&dir.0, &known).unwrap();
    let text = fs::read_to_string(dir.0.join(INFO)).unwrap();
    assert_eq!(text, "ID: 3297041220608546238\nAddress: 127.0.0.1:9001\nRole: 0\n");
    assert_eq!(load_info(&dir.0).unwrap(), Some(known));
    assert_eq!(
        fs::metadata(dir.0.join(INFO)).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(list(&dir.0).unwrap(), [CLUSTER, INFO]);
}

#[test]
fn cluster_is_a_sequence_of_the_same() {
    let dir = Dir::new("cluster");
    store_cluster(&dir.0, &[entry(u64::MAX, "[::1]:9001"), entry(2, "@name")]).unwrap();
    let text = fs::read_to_string(dir.0.join(CLUSTER)).unwrap();
    assert_eq!(
        text,
        "- ID: 18446744073709551615\n  Address: '[::1]:9001'\n  Role: 0\n- ID: 2\n  Address: '@name'\n  Role: 0\n"
    );
    assert_eq!(
        parse(&text).unwrap(),
        [entry(u64::MAX, "[::1]:9001"), entry(2, "@name")]
    );
    store_cluster(&dir.0, &[]).unwrap();
    assert_eq!(fs::read_to_string(dir.0.join(CLUSTER)).unwrap(), "[]\n");
}

#[test]
fn scalars_may_be_plain_or_quoted_and_keys_unknown_or_missing() {
    let text = "# made by hand\nAddress: \"127.0.0.1:9001\"\nColour: green\nID: 7 # seven\n";
    assert_eq!(parse(text).unwrap(), [entry(7, "127.0.0.1:9001")]);
    assert_eq!(parse("---\nID: 7\nAddress: 'a''b:1'\n").unwrap(), [entry(7, "a'b:1")]);
}

#[test]
fn a_damaged_info_names_itself() {
    let dir = Dir::new("damaged");
    assert_eq!(load_info(&dir.0).unwrap(), None);
    for text in [
        "",
        "ID: x\n",
        "ID: 1\n",
        "no yaml",
        "ID: 18446744073709551616\nAddress: a:1\n",
    ] {
        fs::write(dir.0.join(INFO), text).unwrap();
        let error = load_info(&dir.0).unwrap_err();
        assert!(error.message().contains("info.yaml"), "{error}");
    }
}

#[test]
fn raft_state_is_recognised_by_its_names() {
    let dir = Dir::new("state");
    for name in [INFO, LOCK, "join", "notes-1.txt", "1-2"] {
        fs::write(dir.0.join(name), "").unwrap();
    }
    assert!(!has_raft_state(&dir.0).unwrap());
    for name in [
        "metadata1",
        "open-1",
        "0000000000000001-0000000000000042",
        "snapshot-1-2-3",
    ] {
        fs::write(dir.0.join(name), "").unwrap();
        assert!(has_raft_state(&dir.0).unwrap(), "{name}");
        fs::remove_file(dir.0.join(name)).unwrap();
    }
}

#[test]
fn drafts_that_a_crash_left_are_removed_and_nothing_else() {
    let dir = Dir::new("drafts");
    let others = [
        ".info.yaml.new",
        ".info.yaml.x.new",
        ".notes.1.new",
        "cluster.yaml",
        "info.yaml.1.new",
    ];
    let drafts = [".cluster.yaml.12.new", ".info.yaml.0.new", ".join.3.new"];
    for name in others.iter().chain(&drafts) {
        fs::write(dir.0.join(name), "").unwrap();
    }
    remove_drafts(&dir.0).unwrap();
    let mut left = list(&dir.0).unwrap();
    left.sort();
    assert_eq!(left, others);
}

#[test]
fn directories_are_made_private_and_taken_back() {
    let dir = Dir::new("make");
    let deep = dir.0.join("a/b");
    let created = make_dir(&deep).unwrap();
    assert_eq!(fs::metadata(&deep).unwrap().permissions().mode() & 0o777, 0o700);
    created.undo();
    assert!(!dir.0.join("a").exists());
    assert!(dir.0.exists());

    fs::write(dir.0.join("file"), "").unwrap();
    let under_file = dir.0.join("file/sub");
    assert!(make_dir(&under_file).is_err_and(|error| error.message().contains("file/sub")));
    assert!(check_dir(&dir.0.join("file")).is_err_and(|error| error.message().contains("not a directory")));
}

#[test]
fn a_lock_is_seen_and_left_alone() {
    let dir = Dir::new("lock");
    check_unlocked(&dir.0).unwrap();
    assert!(!dir.0.join(LOCK).exists());
    let holder = File::create(dir.0.join(LOCK)).unwrap();
    check_unlocked(&dir.0).unwrap();
    holder.lock().unwrap();
    assert!(check_unlocked(&dir.0).is_err_and(|error| error.message().contains("in use")));
}
