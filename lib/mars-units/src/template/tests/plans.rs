//! Rendering and plans: the examples of the documents, references, markers, header.
use super::*;

const MOUNT: &str = "@eval{%let{mntpath}{%subst{%{mntname}}{-}{/}}}\n\
[Unit]\nDescription=MARS mount @{mntname} for @{res} at @{host}\nBindsTo=mars-logger@@escvar{res}.service\n\
[Mount]\nWhat=/dev/mars/@{res}\nWhere=/@{mntpath}/@{res}\nType=ext4\n";

/// `another-mountdir-mydata.mount`, the example of the manual.
#[test]
fn plan_renders_the_example_of_the_documents() {
    let place = Place::new(&[("~{mntname}-@{res}.mount", MOUNT)]);
    let wanted = [("mydata", "another-mountdir-mydata.mount", "")];
    let (plan, calls) = place.apply(&wanted);
    assert_eq!(plan.warnings, [""; 0]);
    let to = place.path("run/another-mountdir-mydata.mount");
    let from = place.path("lib/systemd-templates/~{mntname}-@{res}.mount");
    let meta = fs::metadata(&from).unwrap();
    let mtime = meta.modified().unwrap();
    let secs = mtime.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(
        place.text("another-mountdir-mydata.mount"),
        format!(
            "### GENERATED FROM: {}\n### GENERATED NAME: another-mountdir-mydata.mount\n### GENERATED   TO: {}\n\
             ### TEMPLATE MTIME: {}\n###\n###   REF: mars-logger@mydata.service\n###\n\n\
             [Unit]\nDescription=MARS mount another-mountdir for mydata at hostA\nBindsTo=mars-logger@mydata.service\n\
             [Mount]\nWhat=/dev/mars/mydata\nWhere=/another/mountdir/mydata\nType=ext4\n",
            from.display(),
            to.display(),
            secs.as_secs(),
        )
    );
    use std::os::unix::fs::PermissionsExt;
    let meta = fs::metadata(&to).unwrap();
    assert_eq!(meta.permissions().mode() & 0o7777, 0o444);
    assert_eq!(meta.modified().unwrap(), mtime);
    assert_eq!(calls, ["reload", "enable another-mountdir-mydata.mount"]);
    // Nothing has changed, so there is nothing to do.
    assert_eq!(place.plan(&wanted).steps, []);
    // Forced: made anew, but what is the same is not written.
    assert_eq!(place.plan_as(&wanted, true, true).steps, []);
}

#[test]
fn plan_body_forms() {
    let body = "a@b.c @ @{res} @{%{x}} @esc{/a/b-c/} @escvar{res} @verbatim{@{res} {}} @other{@{res}}\n\
                @{nope} @{nope} @escvar{nope}\n@{open\n@eval{%let{later}{L}}@{later} @eval{@{res}}\n";
    let place = Place::new(&[("t-@escvar{res}.service", body)]);
    let (plan, _) = place.apply(&[("lv-0", "t-lv\\x2d0.service", "")]);
    assert_eq!(
        place.body("t-lv\\x2d0.service"),
        "a@b.c @ lv-0 UNDEFINED() a-b\\x2dc lv\\x2d0 @{res} {} @{res}\n\
         UNDEFINED(nope) UNDEFINED(nope) UNDEFINED(nope)\n@{open\nL @{res}\n"
    );
    let from = place.path("lib/systemd-templates/t-@escvar{res}.service");
    let at =
        |line: u32, text: &str| format!("t-lv\\x2d0.service: {}:{line}: {text}", from.display());
    assert_eq!(
        plan.warnings,
        [
            at(1, "variable '' is not defined"),
            at(1, "@other{…} is unknown"),
            at(2, "variable 'nope' is not defined"),
        ]
    );
}

#[test]
fn plan_error_names_file_and_line_and_keeps_what_was_there() {
    let place = Place::new(&[
        ("t-@{res}.service", "[Unit]\nAfter=b-@{res}.service\n"),
        ("b-@{res}.service", "ok\n"),
    ]);
    let wanted = [("r", "t-r.service", "")];
    place.apply(&wanted);
    assert_eq!(place.generated(), ["b-r.service", "t-r.service"]);
    place.template("lib", "t-@{res}.service", "[Unit]\n\nX=@eval{%nope{}}\n");
    // Another time than before, however fast this runs.
    touch(&place, "t-@{res}.service", 1000);
    let plan = place.plan(&wanted);
    let from = place.path("lib/systemd-templates/t-@{res}.service");
    assert_eq!(
        plan.errors,
        [format!(
            "t-r.service cannot be generated: {}:3: unknown macro nope",
            from.display()
        )]
    );
    // The old file stays, and so does what it refers to.
    assert_eq!(plan.steps, []);
}

pub(super) fn touch(place: &Place, template: &str, secs: u64) {
    let path = place.path("lib/systemd-templates").join(template);
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(secs))
        .unwrap();
}

#[test]
fn plan_up_to_date_is_a_matter_of_the_time_of_the_template() {
    let place = Place::new(&[("t-@{res}.service", "one\n")]);
    let wanted = [("r", "t-r.service", "")];
    touch(&place, "t-@{res}.service", 1000);
    place.apply(&wanted);
    place.template("lib", "t-@{res}.service", "two\n");
    touch(&place, "t-@{res}.service", 1000);
    assert_eq!(place.plan(&wanted).steps, []);
    assert_eq!(place.plan_as(&wanted, true, true).steps.len(), 3);
    // Older counts too: the package went back to an earlier version.
    touch(&place, "t-@{res}.service", 999);
    place.apply(&wanted);
    assert_eq!(place.body("t-r.service"), "two\n");
    // The same name and time, but in a directory that comes first.
    place.template("etc", "t-@{res}.service", "three\n");
    let from = place.path("etc/systemd-templates/t-@{res}.service");
    let file = fs::File::options().append(true).open(from).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(999))
        .unwrap();
    place.apply(&wanted);
    assert_eq!(place.body("t-r.service"), "three\n");
}

/// The chain of the manual: the load needs medium 02, that medium 01, that the mount.
#[test]
fn plan_follows_references_until_nothing_new_appears() {
    let place = Place::new(&[
        ("~{m}-@{res}.mount", "[Mount]\nWhat=/dev/mars/@{res}\n"),
        (
            "~{m}-@{res}-medium-01.service",
            "[Unit]\nBindsTo=@{m}-@{res}.mount\n",
        ),
        (
            "~{m}-@{res}-medium-02.service",
            "[Unit]\nBindsTo=@{m}-@{res}-medium-01.service\n",
        ),
        (
            "~{m}-@{res}-testload.service",
            "[Unit]\nBindsTo=@{m}-@{res}-medium-02.service\n",
        ),
    ]);
    place.apply(&[("mydata", "mnt-x-mydata-testload.service", "")]);
    assert_eq!(
        place.generated(),
        [
            "mnt-x-mydata-medium-01.service",
            "mnt-x-mydata-medium-02.service",
            "mnt-x-mydata-testload.service",
            "mnt-x-mydata.mount",
        ]
    );
}

#[test]
fn plan_with_circles_and_endless_names_ends() {
    let place = Place::new(&[
        (
            "a-@{res}.service",
            "[Unit]\nAfter=b-@{res}.service a-@{res}.service\n",
        ),
        ("b-@{res}.service", "[Unit]\nAfter=a-@{res}.service\n"),
        ("grow-~{x}.service", "[Unit]\nAfter=grow-a@{x}.service\n"),
    ]);
    let wanted = [("r", "a-r.service", "grow-x.service")];
    let plan = place.plan(&wanted);
    assert!(plan.units.contains_key("b-r.service"));
    let longest = plan.units.keys().map(String::len).max().unwrap();
    assert_eq!(longest, 255);
    place.apply(&wanted);
    assert_eq!(place.plan(&wanted).steps, []);
}

#[test]
fn plan_missing_units_are_warned_about_unless_others_have_them() {
    let text = "[Unit]\nAfter=later.service\nRequires=packaged.service inst@x.service missing.service multi-user.target dev-sda.device\n\
                RequiresMountsFor=/a/b\nBindsTo=mars-logger@@escvar{res}.service\n";
    let place = Place::new(&[("t-@{res}.service", text)]);
    fs::write(place.path("usr/packaged.service"), "").unwrap();
    fs::write(place.path("usr/inst@.service"), "").unwrap();
    let plan = place.plan(&[("r", "t-r.service", "gone-r.mount")]);
    assert_eq!(
        plan.warnings,
        [
            "stop unit of resource r: there is neither a template for gone-r.mount nor a unit of this name",
            "t-r.service: there is neither a template for missing.service nor a unit of this name",
        ]
    );
    // Configured, not a template: used as it is.
    let plan = place.plan(&[("r", "packaged.service", "")]);
    assert_eq!((plan.warnings.len(), plan.steps.len()), (0, 0));
}

#[test]
fn plan_never_takes_the_place_of_others() {
    let place = Place::new(&[
        (
            "~{x}-@{res}.service",
            "[Unit]\nAfter=mars-meta.service nginx-meta.service\n",
        ),
        ("mine-@{res}.service", "[Unit]\n"),
        ("mars-meta.service", "[Unit]\n"),
        ("multi-user.target", "[Unit]\n"),
    ]);
    fs::write(place.path("usr/nginx-meta.service"), "").unwrap();
    // Exists in the target directory, without our header.
    fs::write(place.path("run/mine-meta.service"), "by hand\n").unwrap();
    let (plan, _) = place.apply(&[("meta", "top-meta.service", "mine-meta.service")]);
    assert_eq!(place.generated(), ["mine-meta.service", "top-meta.service"]);
    assert_eq!(place.text("mine-meta.service"), "by hand\n");
    assert!(plan.warnings[0].starts_with("mine-meta.service exists and was not generated"));
    // The resource is gone: what was made by hand stays.
    place.apply(&[]);
    assert_eq!(place.generated(), ["mine-meta.service"]);
}

#[test]
fn plan_markers_decide_about_enabling_and_starting() {
    let place = Place::new(&[
        ("plain.service", "[Unit]\n"),
        ("always.service", "# ALWAYS_START\n"),
        ("keep.service", "# KEEP_RUNNING\n"),
        ("off.service", "# ALWAYS_DISABLED\n"),
        ("inst@.service", "[Service]\n"),
        (
            "keep-@{res}.service",
            "# KEEP_RUNNING\n# ALSO=always-@{res}.path\n",
        ),
        ("always-@{res}.path", "# ALWAYS_START\n"),
        ("always-@{res}.service", "[Service]\n"),
    ]);
    let (plan, calls) = place.apply(&[("r", "keep-r.service", "")]);
    assert_eq!(
        calls,
        [
            "reload",
            "enable always.service keep.service plain.service keep-r.service always-r.path always-r.service",
            "start always.service",
            "start keep.service",
            // keep-r belongs to a stack: the want link decides where it runs.
            "start always-r.path",
        ]
    );
    let kept: Vec<&str> = plan.keep_up.iter().map(String::as_str).collect();
    assert_eq!(kept, ["always-r.path", "always.service", "keep.service"]);
}

#[test]
fn plan_watchers_are_made_when_there_is_a_template() {
    let place = Place::new(&[
        ("mars-@escvar{res}-trigger.path", "# ALWAYS_START\n[Path]\n"),
        ("mars-@escvar{res}-trigger.service", "[Service]\n"),
    ]);
    place.apply(&[("lv-0", "", "")]);
    assert_eq!(
        place.generated(),
        [
            "mars-lv\\x2d0-trigger.path",
            "mars-lv\\x2d0-trigger.service"
        ]
    );
}

#[test]
fn plan_resources_with_alike_names_do_not_mix() {
    let place = Place::new(&[
        ("~{m}-@{res}.mount", "What=/dev/mars/@{res} Where=@{m}\n"),
        ("all.service", "[Unit]\nAfter=mnt-my-data.mount\n"),
    ]);
    place.apply(&[("data", "mnt-data.mount", ""), ("my-data", "", "")]);
    // Referred to by a unit of no resource: the longer name is meant.
    assert_eq!(
        place.body("mnt-my-data.mount"),
        "What=/dev/mars/my-data Where=mnt\n"
    );
    assert_eq!(
        place.body("mnt-data.mount"),
        "What=/dev/mars/data Where=mnt\n"
    );
}

#[test]
fn plan_scripts_go_to_their_own_directory() {
    let place = Place::new(&[(
        "load-@escvar{res}.script",
        "#!/bin/sh\n# KEEP_RUNNING\necho \"$1 @{res}\" >>\"$0.log\"\n[ \"$1\" != restart ] || { echo because; exit 3; }\n",
    )]);
    let (_, calls) = place.apply(&[("r", "load-r.script", "")]);
    // systemd hears nothing of it.
    assert_eq!(calls, [""; 0]);
    assert_eq!(place.generated(), [""; 0]);
    let dir = place.path("etc/systemd-generated-scripts");
    let text = fs::read_to_string(dir.join("load-r.script")).unwrap();
    assert!(
        text.starts_with("#!/bin/sh\n### GENERATED FROM: "),
        "{text}"
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(dir.join("load-r.script"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o544);
    let run = |unit: &str, op| run_script(&place.env, unit, op, Duration::from_secs(20));
    run("load-r.script", ScriptOp::Start).unwrap();
    let e = run("load-r.script", ScriptOp::Restart)
        .unwrap_err()
        .to_string();
    assert_eq!(e, "load-r.script: restart: exit status: 3: because");
    run("gone-r.script", ScriptOp::Stop).unwrap();
    assert!(run("gone-r.script", ScriptOp::Start).is_err());
    assert!(run("../load-r.script", ScriptOp::Stop).is_err());
    fs::write(dir.join("foreign.script"), "#!/bin/sh\nexit 0\n").unwrap();
    let e = run("foreign.script", ScriptOp::Start)
        .unwrap_err()
        .to_string();
    assert!(e.contains("was not generated"), "{e}");
    let log = fs::read_to_string(dir.join("load-r.script.log")).unwrap();
    assert_eq!(log, "start r\nrestart r\n");
}

/// What the script leaves behind in the background must not keep the caller waiting; a script that hangs is killed with it.
#[test]
fn plan_scripts_that_hang_are_killed() {
    let place = Place::new(&[
        (
            "hang-@{res}.script",
            "#!/bin/sh\necho waiting\nsleep 1000\n",
        ),
        (
            "fork-@{res}.script",
            "#!/bin/sh\nsleep 1000 &\necho $! >\"$0.pid\"\n",
        ),
    ]);
    place.apply(&[("r", "hang-r.script", "fork-r.script")]);
    let e = run_script(
        &place.env,
        "hang-r.script",
        ScriptOp::Start,
        Duration::from_millis(300),
    );
    let e = e.unwrap_err().to_string();
    assert!(e.contains("killed: waiting"), "{e}");
    let limit = Duration::from_secs(600);
    run_script(&place.env, "fork-r.script", ScriptOp::Start, limit).unwrap();
    let pid = place.path("etc/systemd-generated-scripts/fork-r.script.pid");
    let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

/// A value from the cluster must not become lines of a unit.
#[test]
fn plan_values_cannot_add_lines() {
    struct Evil(Toy);
    impl Macros for Evil {
        fn begin(&mut self, res: Option<&str>) {
            self.0.begin(res);
            self.0.set_var("host", "x\nExecStart=/bin/evil");
        }
        fn eval(&mut self, text: &str) -> Result<String, String> {
            self.0.eval(text)
        }
        fn var(&self, name: &str) -> Option<String> {
            self.0.var(name)
        }
        fn set_var(&mut self, name: &str, value: &str) {
            self.0.set_var(name, value);
        }
    }
    let place = Place::new(&[("t-@{res}.service", "Description=@{host} @escvar{host}\n")]);
    let wanted = Wanted {
        res: "r".parse().unwrap(),
        start: Some("t-r.service".into()),
        stop: None,
    };
    let plan = plan(
        &place.env,
        &[wanted],
        true,
        false,
        &mut Evil(Toy::default()),
    );
    let text = plan.steps.iter().find_map(|s| match s {
        Step::Install { text, .. } => Some(text.as_str()),
        _ => None,
    });
    let text = text.unwrap();
    assert!(
        text.contains("Description=x ExecStart=/bin/evil x\\x20ExecStart\\x3d-bin-evil\n"),
        "{text}"
    );
    // The same warning twice is one.
    assert_eq!(plan.warnings.len(), 1);
}

#[test]
fn plan_does_not_use_templates_of_strangers() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(&[("a.service", "[Unit]\n"), ("b.service", "[Unit]\n")]);
    let dir = place.path("lib/systemd-templates");
    fs::set_permissions(dir.join("a.service"), PermissionsExt::from_mode(0o666)).unwrap();
    let plan = place.plan(&[]);
    assert!(
        plan.warnings[0].contains("everybody may change it"),
        "{:?}",
        plan.warnings
    );
    assert_eq!(plan.units.len(), 1);
    fs::set_permissions(&dir, PermissionsExt::from_mode(0o777)).unwrap();
    let plan = place.plan(&[]);
    assert!(
        plan.warnings[0].contains("are not used: everybody"),
        "{:?}",
        plan.warnings
    );
    assert_eq!(plan.units.len(), 0);
}
