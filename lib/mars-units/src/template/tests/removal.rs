//! What is no longer needed.
use super::*;

fn place() -> Place {
    Place::new(&[
        ("~{m}-@{res}.mount", "[Mount]\nWhat=/dev/mars/@{res}\n"),
        (
            "~{m}-@{res}-load.service",
            "[Unit]\nBindsTo=@{m}-@{res}.mount\n",
        ),
        ("keep-@{res}.service", "# KEEP_RUNNING\n"),
        ("off-@{res}.service", "# ALWAYS_DISABLED\n"),
        ("s-@{res}.script", "#!/bin/sh\necho $1 >>\"$0.log\"\n"),
    ])
}

const ALL: &str = "mnt-r-load.service keep-r.service off-r.service s-r.script";

#[test]
fn removal_stops_tips_first_and_respects_markers() {
    let place = place();
    place.apply(&[("r", ALL, ""), ("q", "mnt-q.mount", "")]);
    let (_, calls) = place.apply(&[("q", "mnt-q.mount", "")]);
    assert_eq!(
        calls,
        [
            "stop mnt-r-load.service",
            "stop mnt-r.mount",
            "disable keep-r.service",
            "disable mnt-r-load.service",
            "disable off-r.service",
            "disable mnt-r.mount",
            "reload",
        ]
    );
    assert_eq!(place.generated(), ["mnt-q.mount"]);
    let scripts = place.path("etc/systemd-generated-scripts");
    assert!(!scripts.join("s-r.script").exists());
    let log = fs::read_to_string(scripts.join("s-r.script.log")).unwrap();
    assert_eq!(log, "stop\ndisable\n");
    assert_eq!(place.plan(&[("q", "mnt-q.mount", "")]).steps, []);
}

#[test]
fn removal_only_when_everything_was_computed() {
    let place = place();
    place.apply(&[("r", ALL, "")]);
    let steps = |p: Generation| p.steps;
    assert_eq!(steps(place.plan_as(&[("q", "", "")], false, false)), []);
    // A directory that cannot be read: nothing is known about its templates.
    let dir = place.path("etc/systemd-templates");
    fs::remove_dir(&dir).unwrap();
    std::os::unix::fs::symlink(&dir, &dir).unwrap();
    let plan = place.plan(&[]);
    assert_eq!(plan.steps, []);
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    fs::remove_file(&dir).unwrap();
    assert!(!steps(place.plan(&[])).is_empty());
}

#[test]
fn removal_never_of_what_is_still_asked_for() {
    let place = place();
    place.apply(&[("r", "mnt-r-load.service", "")]);
    // The templates are gone (a package that is being replaced), the units are still configured.
    fs::remove_file(place.path("lib/systemd-templates/~{m}-@{res}-load.service")).unwrap();
    let plan = place.plan(&[("r", "mnt-r-load.service", "mnt-r.mount")]);
    assert_eq!(plan.steps, []);
}

#[test]
fn removal_of_a_busy_unit_is_tried_again() {
    let place = place();
    place.apply(&[("r", "mnt-r-load.service", "")]);
    let plan = place.plan(&[]);
    let manager = Recorder {
        busy: vec!["mnt-r.mount".into()],
        ..Recorder::default()
    };
    let out = carry_out(&place.env, &plan, &manager, Duration::from_secs(1));
    assert_eq!(out.errors, ["mnt-r.mount: busy"]);
    assert_eq!(place.generated(), ["mnt-r.mount"]);
    assert!(!manager.calls().contains(&"disable mnt-r.mount".to_string()));
    let (_, calls) = place.apply(&[]);
    assert_eq!(calls[0], "stop mnt-r.mount");
    assert_eq!(place.generated(), [""; 0]);
}

#[test]
fn removal_leaves_foreign_files_and_links_alone() {
    let place = place();
    fs::write(place.path("run/other.service"), "[Unit]\n").unwrap();
    fs::write(place.path("run/x.conf"), "### GENERATED FROM: x\n").unwrap();
    let generated = place.path("elsewhere.service");
    fs::write(&generated, "### GENERATED FROM: x\n").unwrap();
    std::os::unix::fs::symlink(&generated, place.path("run/link.service")).unwrap();
    let before = place.generated();
    place.apply(&[]);
    assert_eq!(place.generated(), before);
}

/// Nothing is stopped when the new files cannot be written.
#[test]
fn removal_does_not_begin_when_writing_fails() {
    let place = place();
    place.apply(&[("r", "mnt-r.mount", "")]);
    let mut plan = place.plan(&[("q", "mnt-q.mount", "")]);
    assert!(plan.steps.contains(&Step::Stop("mnt-r.mount".into())));
    for step in &mut plan.steps {
        if let Step::Install { to, .. } = step {
            *to = place.path("run/mnt-r.mount/below-a-file/x.mount");
        }
    }
    let manager = Recorder::default();
    let out = carry_out(&place.env, &plan, &manager, Duration::from_secs(1));
    assert_eq!((out.errors.len(), manager.calls().len()), (1, 0));
    assert_eq!(place.generated(), ["mnt-r.mount"]);
}

#[test]
fn removal_of_temporary_files_of_a_run_that_died() {
    let place = place();
    fs::write(place.path("run/.mars-generated-1-0"), "half").unwrap();
    place.apply(&[("r", "mnt-r.mount", "")]);
    assert_eq!(place.generated(), ["mnt-r.mount"]);
}
