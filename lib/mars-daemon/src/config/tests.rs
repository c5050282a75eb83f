#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use std::collections::BTreeSet;
use std::fs;

fn problems(text: &str) -> Vec<String> {
    let e = Config::parse(text).unwrap_err();
    e.0.iter().map(Problem::to_string).collect()
}

fn problem(text: &str) -> String {
    let all = problems(text);
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(all[0].lines().count(), 1);
    all[0].clone()
}

fn res(name: &str) -> ResName {
    name.parse().unwrap()
}

#[test]
fn config_resource_section_overrides_top_level_and_default() {
    let c = Config::parse("durability = \"flush\"\n[resource.a]\nfront = \"nbd-socket\"\ndurability = \"strict\"\nbuffer_limit_mib = 8\nlogger_resume = false").unwrap();
    let (a, b) = (c.resource(&res("a")), c.resource(&res("b")));
    assert_eq!(
        (a.front, a.durability, a.buffer_limit_bytes, a.resume),
        (FrontChoice::NbdSocket, Durability::Strict, 8 * MIB, false)
    );
    assert_eq!(
        (b.front, b.durability, b.resume),
        (FrontChoice::Auto, Durability::Flush, true)
    );
}

#[test]
fn config_errors_name_file_line_value_and_the_way_out() {
    for (text, expected) in [
        (
            "front = \"auto\"\nfrunt = 1\n",
            "mars.conf:2: unknown key \"frunt\"; did you mean front?",
        ),
        (
            "\n\nfront = \"fus\"",
            "mars.conf:3: front = \"fus\": must be one of auto, fuse, nbd-socket; did you mean \"fuse\"?",
        ),
        (
            "[resource.x]\nbuffer_limit_mib = 1",
            "mars.conf:2: buffer_limit_mib = 1: must be 4 to 65536 MiB",
        ),
        (
            "buffer_limit_mib = -1",
            "mars.conf:1: buffer_limit_mib = -1: must be 4 to 65536 MiB",
        ),
        (
            "buffer_limit_mib = 99999999999999999999999",
            "mars.conf:1: buffer_limit_mib = 99999999999999999999999: must be 4 to 65536 MiB",
        ),
        (
            "buffer_limit_mib = \"64\"",
            "mars.conf:1: buffer_limit_mib = \"64\": a whole number without quotes is needed, 4 to 65536 MiB",
        ),
        (
            "logger_resume = 1",
            "mars.conf:1: logger_resume = 1: must be true or false",
        ),
        (
            "[resource.x]\n\nheartbeat_ms = 100",
            "mars.conf:3: heartbeat_ms counts for the whole host; write it at the top level, before the first [section]",
        ),
        (
            "logrot_auto_gb = 32",
            "mars.conf:1: unknown key \"logrot_auto_gb\"; logrot_auto_gb is called logrot_auto_mib here, value x 1024",
        ),
        (
            "resource = 1",
            "mars.conf:1: resource is a section: write [resource.NAME]",
        ),
        (
            "resource.x = 1",
            "mars.conf:1: resource.x is a section: write [resource.x]",
        ),
    ] {
        assert_eq!(problem(text), expected);
    }
    let strange = problem("[resource.\"a/b\"]\n");
    assert!(
        strange.starts_with("mars.conf:1: [resource.\"a/b\"]: invalid"),
        "{strange}"
    );
    assert!(problem("io_tuning = 1\nfront = \"auto\"").contains("see mars.conf(5)"));
    assert!(problem("write_throttle_start_percent = 1").contains("has no counterpart: "));
    assert!(problems("x = [")[0].starts_with("mars.conf:1: "));
}

#[test]
fn config_finds_all_problems_of_a_file() {
    let all = problems(
        "fronts = 1\nbuffer_limit_mib = 0\n[resource.r]\nlog_digest = \"md4\"\nlog_digest = \"md5\"\n",
    );
    assert!(all.len() >= 4, "{all:?}");
    let e = Config::parse("a = 1\nb = 1\n").unwrap_err().to_string();
    assert!(e.ends_with("(and 1 more; see marsadm config check)"), "{e}");
}

/// Whatever is in the file: no panic, at most one line per problem.
#[test]
fn config_survives_damaged_files() {
    let good = example().replace('#', "");
    for cut in 0..good.len() {
        if let (true, Err(e)) = (good.is_char_boundary(cut), Config::parse(&good[..cut])) {
            assert!(e.0.iter().all(|p| p.to_string().lines().count() == 1));
        }
    }
    for text in [
        "\u{0}",
        "=",
        "[",
        "[[resource]]",
        "\u{feff}front=\"auto\"",
        "a.b.c.d = 1",
    ] {
        let _ = Config::parse(text);
    }
}

fn env(dir: &Path) -> HostEnv {
    let dir = dir.to_str().unwrap().to_string();
    let var = |k: &str| match k {
        "MARS_HOST" => Some("hosta".to_string()),
        k if k.ends_with("_DIR") || k == "MARS_ROOT" => Some(dir.clone()),
        _ => None,
    };
    HostEnv::from_vars(var).unwrap()
}

#[test]
fn config_drop_ins_are_read_in_order_and_the_last_value_counts() {
    let dir = tempfile::tempdir().unwrap();
    let env = env(dir.path());
    assert!(Config::load(&env).unwrap().files().is_empty());
    let d = dir.path().join("mars.conf.d");
    fs::create_dir(&d).unwrap();
    fs::write(
        dir.path().join("mars.conf"),
        "buffer_limit_mib = 10\nwriteback_age_ms = 1\n[resource.r]\nlogrot_auto_mib = 1\n",
    )
    .unwrap();
    fs::write(d.join("20-b.toml"), "buffer_limit_mib = 30\n").unwrap();
    fs::write(
        d.join("10-a.toml"),
        "\nbuffer_limit_mib = 20\n[resource.r]\nlogrot_auto_mib = 2\n",
    )
    .unwrap();
    for ignored in ["30-c.conf", ".40.toml", "x.toml~"] {
        fs::write(d.join(ignored), "nonsense").unwrap();
    }
    let c = Config::load(&env).unwrap();
    let shown = |key: &str| {
        let all = c.effective(Some(&res("r")));
        let e = all.into_iter().find(|e| e.key.name == key).unwrap();
        let source = e.source.map_or("default".into(), |s| {
            format!("{}:{}", s.file.file_name().unwrap().display(), s.line)
        });
        format!("{} {source}", e.value)
    };
    assert_eq!(shown("buffer_limit_mib"), "30 20-b.toml:1");
    assert_eq!(shown("writeback_age_ms"), "1 mars.conf:2");
    assert_eq!(shown("logrot_auto_mib"), "2 10-a.toml:4");
    assert_eq!(shown("front"), "\"auto\" default");
    fs::write(d.join("15.toml"), "oops = 1\n").unwrap();
    let e = Config::load(&env).unwrap_err().to_string();
    assert!(e.contains("15.toml:1: unknown key"), "{e}");
    fs::remove_file(d.join("15.toml")).unwrap();
    fs::create_dir(d.join("16.toml")).unwrap();
    assert!(
        Config::load(&env)
            .unwrap_err()
            .to_string()
            .contains("no configuration file")
    );
}

#[test]
fn config_changes_are_those_a_program_looks_at() {
    let old = Config::parse("heartbeat_ms = 1000\n").unwrap();
    let new =
        Config::parse("heartbeat_ms = 2000\nfront = \"fuse\"\n[resource.r]\nlogrot_auto_mib = 7\n")
            .unwrap();
    let texts = |program, r| -> Vec<(String, Apply)> {
        let all = old.changes(&new, program, r);
        all.into_iter().map(|c| (c.text, c.apply)).collect()
    };
    assert_eq!(
        texts("mars-meta", None),
        [("heartbeat_ms 1000 -> 2000".to_string(), Apply::Reload)]
    );
    assert_eq!(
        texts("mars-logger", Some("r")),
        [
            ("front \"auto\" -> \"fuse\"".to_string(), Apply::Restart),
            ("logrot_auto_mib 32768 -> 7".to_string(), Apply::Reload)
        ]
    );
    assert_eq!(texts("mars-logger", Some("other")).len(), 1);
    assert!(texts("mars-sync", Some("r")).is_empty());
}

#[test]
fn config_buffer_is_bounded_by_the_memory() {
    let gib = 1 << 30;
    assert_eq!(buffer_limit(256 * MIB, 20, Some(64 * gib)), 256 * MIB);
    assert_eq!(buffer_limit(256 * MIB, 10, Some(1000 * MIB)), 100 * MIB);
    assert_eq!(buffer_limit(256 * MIB, 1, Some(MIB)), 4 * MIB);
    assert_eq!(buffer_limit(256 * MIB, 1, None), 256 * MIB);
    assert!(memory().unwrap() > 100 * MIB);
}

/// The kinds of the table are those the getters expect, and the defaults are allowed values.
#[test]
fn config_table_is_consistent() {
    let names: BTreeSet<_> = TUNABLES.iter().map(|t| t.name).collect();
    assert_eq!(names.len(), TUNABLES.len());
    for t in TUNABLES {
        let text = format!("{} = {}", t.name, t.default);
        let c = Config::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        let again: Vec<_> = c.effective(None).iter().map(|e| e.value).collect();
        let default: Vec<_> = Config::default()
            .effective(None)
            .iter()
            .map(|e| e.value)
            .collect();
        assert_eq!(again, default);
        assert!(
            !t.help.contains(['|', '\n']) && t.help.ends_with('.'),
            "{}",
            t.name
        );
    }
    for r in RENAMED {
        assert!(find(r.new).is_some() && find(r.old).is_none(), "{}", r.old);
    }
    let c = Config::default();
    let r = c.resource(&res("r"));
    assert_eq!(
        (r.front, r.durability, r.log_compression, r.log_digest),
        (
            FrontChoice::Auto,
            Durability::Strict,
            LogCompression::None,
            LogDigest::Crc32c
        )
    );
    assert_eq!((r.rotate_bytes, r.prepare_bytes), (32768 * MIB, 4 * MIB));
    assert_eq!(
        (r.recovery_limit_bytes, r.zlib_level, r.resume),
        (1024 * MIB, 3, true)
    );
    assert_eq!(r.writeback_age, Duration::from_secs(5));
    assert_eq!(c.heartbeat(), Duration::from_secs(5));
    assert_eq!(c.fetch_timeout(&res("r")), Duration::from_secs(15));
    assert_eq!(c.sync_timeout(&res("r")), Duration::from_secs(60));
    assert_eq!(c.required_free_bytes(), [2 << 30; 4]);
    assert_eq!(c.required_total_bytes(), 12 << 30);
    assert_eq!(
        (c.thresh_logfiles(), c.thresh_logsize_bytes()),
        (10, 5_000_000_000)
    );
    assert_eq!((c.port(), c.log_level()), (7777, "info"));
}

/// All tunables of the original are answered: same name, another one, or why there is none.
#[test]
fn config_every_original_tunable_has_an_answer() {
    let original = "required_total_space_0_gb required_free_space_1_gb required_free_space_2_gb required_free_space_3_gb required_free_space_4_gb \
        mars_emergency_mode mars_reset_emergency logger_resume emergency-limit logrot_auto_gb thresh-logfiles thresh-logsize mem_limit_percent \
        mem_limit_gb logger_mem_used_kb logger_completion_semantics aio_sync_mode logger_allow_compress zlib_compress_level \
        logger_report_interval_s logger_writeback_maxage_s logger_pressure_limit logger_disable_pressure logger_max_interleave \
        logger_replay_timeout_sec writeback_until_percent writeback_ratelimit_kb writeback_ratelimit_ops aio_submit_threshold_us \
        aio_io_r_threshold_us aio_io_w_threshold_us aio_sync_threshold_us bio_submit_threshold_us bio_io_r_threshold_us bio_io_w_threshold_us \
        write_throttle_start_percent write_throttle_end_percent write_throttle_size_threshold_kb write_throttle_ratelimit_kb \
        write_throttle_ratelimit_ops write_throttle_maxdelay_ms write_throttle_minwindow_ms write_throttle_maxwindow_ms sync_limit sync-limit \
        sync_nr sync_flip_interval_sec do_fast_fullsync copy_timeout copy_strict_write_order copy_read_max_fly copy_write_max_fly \
        copy_read_prio copy_write_prio parallel_connections parallel_bulk_feed network_io_timeout client_abort peer_abort mars_port ip_tos \
        tcp_window_size tcp_nodelay tcp_timeout tcp_keepidle tcp_keepintvl tcp_keepcnt scan_interval_sec propagate_interval_sec alive_window \
        min_update_seconds max_lamport_future mapfree_period_sec mapfree_grace_keep_mb client_role_traffic_kb server_role_traffic_ops \
        disabled-log-digests disabled-net-digests enabled-log-compressions enabled-net-compressions";
    for name in original.split_whitespace() {
        let answer = keys::advice(name);
        assert!(
            find(name).is_some() || answer.contains("called") || answer.contains("no counterpart"),
            "{name}: {answer}"
        );
    }
}

/// Documents and example come from the table. `MARS_UPDATE_DOCS=1` writes them.
#[test]
fn config_documents_are_up_to_date() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../");
    let update = std::env::var_os("MARS_UPDATE_DOCS").is_some();
    let compare = |path: &str, wanted: String| {
        let file = format!("{root}{path}");
        if update {
            fs::create_dir_all(Path::new(&file).parent().unwrap()).unwrap();
            fs::write(&file, &wanted).unwrap();
        }
        let is = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            is == wanted,
            "{path} is not up to date: run MARS_UPDATE_DOCS=1 cargo test -p mars-daemon config"
        );
    };
    let between = |path: &str, begin: &str, end: &str, wanted: String| {
        let text = fs::read_to_string(format!("{root}{path}")).unwrap();
        let (head, rest) = text.split_once(begin).expect("first mark");
        let (_, tail) = rest.split_once(end).expect("second mark");
        compare(path, format!("{head}{begin}{wanted}{end}{tail}"));
    };
    compare("packaging/mars.conf", example());
    between(
        "man/mars.conf.5",
        ".\\\" tunables: begin\n",
        ".\\\" tunables: end\n",
        man_keys(),
    );
    between(
        "docs/configuration.md",
        "<!-- tunables: begin -->\n",
        "<!-- tunables: end -->\n",
        format!("\n{}\n", markdown()),
    );
    // The example is a configuration, with and without its comments.
    assert!(
        Config::parse(&example())
            .unwrap()
            .effective(None)
            .iter()
            .all(|e| e.source.is_none())
    );
    let bare: String = example()
        .lines()
        .filter_map(|l| l.strip_prefix('#'))
        .filter(|l| !l.starts_with([' ', '#']) && l.contains(['=', '[']))
        .map(|l| format!("{l}\n"))
        .collect();
    let c = Config::parse(&bare).unwrap_or_else(|e| panic!("{e}\n{bare}"));
    assert!(c.effective(None).iter().all(|e| e.source.is_some()));
}
