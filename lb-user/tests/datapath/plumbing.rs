//! The datapath's plumbing on the real kernel, without the kernel object: batches, pins, lock, file system.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};

use crate::lab::Lab;
use aya_obj::generated::bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH};
use lb_user::datapath::pins::{self, Found, MapSchema, Pins};
use lb_user::datapath::sys::{self, Cursor};
use lb_user::datapath::table::Table;
use lb_user::datapath::{Datapath, DatapathError, Viewer, bpffs};

fn hash(entries: u32) -> Table<u32, u64> {
    let fd = sys::map_create(BPF_MAP_TYPE_HASH, 4, 8, entries, 0, "test_hash").expect("a hash");
    Table::from_fd(fd, "test_hash").expect("sizes match")
}

#[test]
fn a_hash_written_in_batches_is_read_back_in_bounded_slices() {
    let table = hash(20_000);
    let entries: Vec<(u32, u64)> = (0..10_000).map(|i| (i, u64::from(i) * 3)).collect();
    table.put_all(&entries).expect("room for all");
    let mut cursor = Cursor::default();
    let mut seen = BTreeMap::new();
    while !cursor.is_done() {
        let slice = table.next_slice(&mut cursor, 100).expect("readable");
        assert!(slice.len() <= 100, "{} in one slice", slice.len());
        seen.extend(slice);
    }
    assert_eq!(seen, entries.into_iter().collect());
}

#[test]
fn deleting_in_batches_steps_over_missing_keys() {
    let table = hash(16);
    table.put_all(&[(1, 1), (2, 2), (5, 5), (9, 9)]).expect("room");
    table.delete_all(&[0, 1, 3, 4, 5, 6, 7]).expect("missing keys are no error");
    let mut left = Vec::new();
    table.for_each(|k, _| left.push(k)).expect("readable");
    left.sort_unstable();
    assert_eq!(left, [2, 9]);
}

#[test]
fn a_full_hash_says_so_and_how_far_it_came() {
    let refused = hash(3).put_all(&[(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]).expect_err("no room");
    assert!(refused.source.is_full(), "{refused}");
    assert_eq!(refused.done, 3);
}

#[test]
fn an_array_is_read_whole_and_from_the_middle() {
    let fd = sys::map_create(BPF_MAP_TYPE_ARRAY, 4, 4, 5_000, 0, "test_array").expect("an array");
    let table: Table<u32, u32> = Table::from_fd(fd, "test_array").expect("sizes match");
    table.put_all(&(0..5_000).map(|i| (i, i + 1)).collect::<Vec<_>>()).expect("room");
    let mut sum = 0u64;
    table.for_each(|_, v| sum += u64::from(v)).expect("readable");
    assert_eq!(sum, 5_000 * 5_001 / 2);
    let slice = table.next_slice(&mut Cursor::after_index(4_996), 10).expect("readable");
    assert_eq!(slice, [(4_997, 4_998), (4_998, 4_999), (4_999, 5_000)]);
}

#[test]
fn a_table_of_other_sizes_is_not_opened() {
    let fd = sys::map_create(BPF_MAP_TYPE_HASH, 4, 4, 4, 0, "test").expect("a hash");
    let error = Table::<u32, u64>::from_fd(fd, "test").expect_err("the value is 4 bytes long");
    assert!(error.to_string().contains("map test: value size is 4, wanted 8"), "{error}");
}

#[test]
fn the_check_of_pinned_maps_names_every_difference() {
    Lab::run(|lab| {
        fs::create_dir_all(lab.state_dir()).expect("state");
        bpffs::ensure_mounted(&lab.bpffs(), &lab.state_dir()).expect("mounted");
        let want = MapSchema {
            map_type: BPF_MAP_TYPE_HASH as u32,
            key_size: 8,
            value_size: 32,
            max_entries: 64,
            flags: 0,
        };
        let wanted = BTreeMap::from([("A", want), ("B", want)]);
        assert_eq!(pins::check(&lab.bpffs(), &wanted).expect("nothing there"), Found::None);
        let map = sys::map_create(BPF_MAP_TYPE_HASH, 8, 32, 64, 0, "A").expect("a map");
        sys::obj_pin(map.as_fd(), &lab.bpffs().join("A")).expect("pinned");
        assert_eq!(pins::check(&lab.bpffs(), &wanted).expect("equal"), Found::Some);
        let map = sys::map_create(BPF_MAP_TYPE_HASH, 8, 32, 128, 0, "B").expect("a map");
        sys::obj_pin(map.as_fd(), &lab.bpffs().join("B")).expect("pinned");
        match pins::check(&lab.bpffs(), &wanted) {
            Err(e @ DatapathError::Resize(_)) => {
                assert!(e.to_string().contains("map B: max_entries is 128, wanted 64"), "{e}");
                assert!(e.to_string().contains("fairway cleanup"), "{e}");
            }
            other => panic!("{other:?}"),
        }
        fs::remove_file(lab.bpffs().join("B")).expect("unpinned");
        let map = sys::map_create(BPF_MAP_TYPE_ARRAY, 4, 16, 64, 0, "B").expect("a map");
        sys::obj_pin(map.as_fd(), &lab.bpffs().join("B")).expect("pinned");
        match pins::check(&lab.bpffs(), &wanted) {
            Err(e @ DatapathError::Schema(_)) => {
                for part in ["type is 2, wanted 1", "key size is 4, wanted 8", "value size is 16, wanted 32"]
                {
                    assert!(e.to_string().contains(&format!("map B: {part}")), "{e}");
                }
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_second_agent_is_refused_and_told_who_holds_the_lock() {
    Lab::run(|lab| {
        fs::create_dir_all(lab.state_dir()).expect("state");
        let first = bpffs::lock(&lab.state_dir(), &lab.bpffs()).expect("free");
        let error = bpffs::lock(&lab.state_dir(), &lab.bpffs()).expect_err("held").to_string();
        assert!(error.contains("another fairway agent holds"), "{error}");
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        let error = lab.cleanup().expect_err("held");
        assert!(matches!(error, DatapathError::Locked { .. }), "{error}");
        drop(first);
        lab.settle();
        bpffs::lock(&lab.state_dir(), &lab.bpffs()).expect("free again");
    });
}

#[test]
fn agents_with_other_state_directories_but_the_same_pins_exclude_each_other() {
    Lab::run(|lab| {
        let (one, two) = (lab.state_dir().join("1"), lab.state_dir().join("2"));
        let pins = lab.state_dir().join("pins");
        [&one, &two, &pins].into_iter().for_each(|d| fs::create_dir_all(d).expect("directory"));
        let _first = bpffs::lock(&one, &pins).expect("free");
        let error = bpffs::lock(&two, &pins).expect_err("held");
        assert!(matches!(error, DatapathError::Locked { .. }), "{error}");
    });
}

#[test]
fn directories_open_to_others_are_closed_and_those_of_others_refused() {
    Lab::run(|lab| {
        fs::create_dir_all(lab.state_dir()).expect("state");
        bpffs::ensure_mounted(&lab.bpffs(), &lab.state_dir()).expect("mounted");
        let dir = lab.bpffs().join("fairway");
        fs::create_dir(&dir).expect("made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("opened");
        bpffs::ensure_private_dir(&dir).expect("can be closed");
        assert_eq!(fs::metadata(&dir).expect("there").permissions().mode() & 0o777, 0o700);
        chown(&dir, Some(12_345), None).expect("given away");
        let error = bpffs::ensure_private_dir(&dir).expect_err("not ours");
        assert!(error.to_string().contains("belongs to uid 12345"), "{error}");
    });
}

#[test]
fn a_missing_bpf_file_system_is_mounted_and_cleanup_takes_it_away() {
    Lab::run(|lab| {
        fs::create_dir_all(lab.state_dir()).expect("state");
        bpffs::ensure_mounted(&lab.bpffs(), &lab.state_dir()).expect("mounted");
        assert!(bpffs::is_bpffs(&lab.bpffs()));
        Pins::new(&lab.bpffs()).create().expect("directories");
        let removed = lab.cleanup().expect("cleaned");
        assert!(!bpffs::is_bpffs(&lab.bpffs()), "{removed:?}");
        assert!(!lab.state_dir().exists(), "{removed:?}");
        assert!(removed.iter().any(|line| line.contains("BPF file system")), "{removed:?}");
    });
}

#[test]
fn no_bpf_file_system_is_mounted_over_other_files() {
    Lab::run(|lab| {
        fs::create_dir_all(lab.bpffs()).expect("directory");
        fs::write(lab.bpffs().join("precious"), "x").expect("file");
        let error = bpffs::ensure_mounted(&lab.bpffs(), &lab.state_dir()).expect_err("not empty");
        assert!(error.to_string().contains("not empty"), "{error}");
        let error = bpffs::ensure_mounted("bpf".as_ref(), &lab.state_dir()).expect_err("relative");
        assert!(error.to_string().contains("not absolute"), "{error}");
    });
}

#[test]
fn an_empty_object_is_a_clear_error_and_touches_nothing() {
    Lab::run(|lab| {
        let error = Datapath::open_object(&lab.options(), &[]).expect_err("no object");
        assert_eq!(error.to_string(), "built without the kernel object; use cargo xtask build");
        assert!(!lab.bpffs().exists() && !lab.state_dir().exists());
    });
}

#[test]
fn a_viewer_without_pins_says_that_no_agent_has_run() {
    Lab::run(|lab| {
        let error = Viewer::open(&lab.bpffs()).expect_err("nothing there");
        assert!(error.to_string().contains("no pinned maps"), "{error}");
    });
}
