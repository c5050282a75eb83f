use super::*;
use crate::stack_holds_device;
use crate::{Stack, StackAction, Want, is_unit_name, stack_action};

/// hostA is member and looked at; `links` is added.
fn action(links: &str) -> StackAction {
    stack_action(&world(links).v(), &res())
}

fn res() -> ResName {
    "lv0".parse().unwrap()
}

fn world(links: &str) -> World {
    let mut w = World::new(crate::fixtures::steady(), "hostA");
    crate::fixtures::add(
        &mut w.snap,
        "resource-lv0/",
        "systemd-start-unit -> tip.service
         systemd-stop-unit -> bottom.mount",
    );
    crate::fixtures::add(&mut w.snap, "resource-lv0/", links);
    w
}

#[test]
fn start_and_stop_decisions() {
    let start = || StackAction::Start("tip.service".into());
    let stop = || StackAction::Stop("bottom.mount".into());
    let nothing = || StackAction::Nothing;
    // want, device here, designated primary, attach here -> action at hostA
    let table = [
        (None, 1, "hostA", 1, nothing()),
        (None, 0, "hostB", 1, nothing()),
        (None, 1, "hostA", 0, nothing()),
        (Some("hostA"), 1, "hostA", 1, start()),
        (Some("hostA"), 1, "hostB", 1, nothing()),
        (Some("hostA"), 1, "(none)", 1, nothing()),
        (Some("hostA"), 0, "hostA", 1, stop()),
        (Some("hostA"), 0, "hostB", 1, stop()),
        (Some("hostA"), 1, "hostA", 0, stop()),
        (Some("hostB"), 1, "hostA", 1, stop()),
        (Some("hostB"), 0, "hostB", 1, stop()),
        (Some("hostB"), 1, "hostB", 1, stop()),
        (Some("(none)"), 1, "hostA", 1, stop()),
        (Some("(none)"), 0, "(none)", 1, stop()),
        // Damaged: nobody controls it.
        (Some("no such host!"), 1, "hostA", 1, nothing()),
        (Some(""), 1, "hostA", 1, nothing()),
    ];
    for (want, device, primary, attach, expected) in table {
        let mut links = format!(
            "primary -> {primary}
             actual-hostA/if-on -> {device}
             todo-hostA/attach -> {attach}\n"
        );
        if let Some(want) = want {
            links += &format!("systemd-want -> {want}\n");
        }
        assert_eq!(action(&links), expected, "{links}");
    }
}

#[test]
fn nothing_without_units_or_membership() {
    let here = "systemd-want -> hostA
                primary -> hostA
                actual-hostA/if-on -> 1\n";
    assert_eq!(action(here), StackAction::Start("tip.service".into()));
    for without in [
        "systemd-start-unit -> -",
        "systemd-start-unit -> ../../etc/passwd",
        "systemd-start-unit -> .service",
        "data-hostA -> -",
    ] {
        assert_eq!(action(&format!("{here}{without}")), StackAction::Nothing);
    }
    let away = "systemd-want -> hostB\n";
    assert_eq!(action(away), StackAction::Stop("bottom.mount".into()));
    for without in [
        "systemd-stop-unit -> -",
        "systemd-stop-unit -> a/b.mount",
        "data-hostA -> -",
    ] {
        assert_eq!(action(&format!("{away}{without}")), StackAction::Nothing);
    }
}

#[test]
fn of_a_list_start_takes_the_first_and_stop_the_last() {
    let w = world(
        "systemd-start-unit -> a.service b.mount
         systemd-stop-unit -> c.service  d.mount
         systemd-want -> (none)",
    );
    let stack = Stack::of(&w.snap, &res());
    assert_eq!(
        stack,
        Stack {
            start: Some("a.service".into()),
            stop: Some("d.mount".into()),
            want: Some(Want::Nobody),
        }
    );
    assert!(stack.is_controlled());
    assert!(!Stack::of(&w.snap, &"other".parse().unwrap()).is_controlled());
}

#[test]
fn the_logger_waits_for_its_own_stack_only() {
    let open = "actual-hostA/open-count -> 1
                actual-hostA/if-on -> 1\n";
    let holds = |more: &str| stack_holds_device(&world(&format!("{open}{more}")).v(), &res());
    assert!(holds("systemd-want -> hostB"));
    assert!(holds("systemd-want -> hostA\ntodo-hostA/attach -> 0"));
    assert!(!holds(
        "systemd-want -> hostB\nactual-hostA/open-count -> 0"
    ));
    assert!(!holds("systemd-want -> hostA\nprimary -> hostA"));
    assert!(!holds("todo-hostA/attach -> 0"));
}

#[test]
fn unit_names() {
    for good in [
        "a.service",
        "mnt-lv\\x2d0.mount",
        "x@y-z.target",
        "nodeagent-lv0.script",
        "a.b.path",
    ] {
        assert!(is_unit_name(good), "{good}");
    }
    let long = format!("{}.service", "x".repeat(300));
    for bad in [
        "",
        "service",
        ".service",
        "a.conf",
        "a b.service",
        "a/b.mount",
        "a.service\n",
        "ä.mount",
        &long,
    ] {
        assert!(!is_unit_name(bad), "{bad}");
    }
}
