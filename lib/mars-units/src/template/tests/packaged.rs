//! The templates of the package: rendered for all kinds of names, understood by systemd, at home in the right place of the order.
use super::*;
use std::process::Command;

fn repository(dir: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(dir)
}

/// Every packaged template, as units of a resource `RES` (escaped where units are named).
const UNITS: [&str; 9] = [
    "mnt-data-RES.mount",
    "nfs-export@mnt-data-RES.service",
    "iscsi-target@RES.service",
    "lxc-guest@RES.service",
    "libvirt-guest@RES.service",
    "app@mnt-data-RES.service",
    "mnt-test-RES-medium-01.service",
    "mnt-test-RES-medium-02.service",
    "mnt-test-RES-testload.service",
];
const RESOURCES: [&str; 3] = ["mydata", "lv-0", "my.data"];

fn rendered() -> (Place, Generation) {
    let mut place = Place::new(&[]);
    place.env.template_dirs = vec![repository("templates")];
    place
        .env
        .foreign_dirs
        .extend([repository("units"), "/usr/lib/systemd/system".into()]);
    // Software that is not installed here.
    fs::write(
        place.path("usr/nfs-server.service"),
        "[Service]\nExecStart=/bin/true\n",
    )
    .unwrap();
    let wanted: Vec<(&str, String)> = RESOURCES
        .iter()
        .map(|res| (*res, UNITS.join(" ").replace("RES", &crate::escape(res))))
        .collect();
    let wanted: Vec<(&str, &str, &str)> = wanted
        .iter()
        .map(|(res, units)| (*res, units.as_str(), ""))
        .collect();
    let (plan, _) = place.apply(&wanted);
    assert_eq!(plan.errors, [""; 0]);
    assert_eq!(plan.warnings, [""; 0]);
    assert_eq!(place.plan(&wanted).steps, []);
    (place, plan)
}

#[test]
fn packaged_templates_are_all_rendered() {
    let (place, plan) = rendered();
    let used: BTreeSet<&PathBuf> = plan.units.values().map(|g| &g.template).collect();
    let there = fs::read_dir(repository("templates")).unwrap();
    let there = there.filter(|e| e.as_ref().unwrap().file_type().unwrap().is_file());
    assert_eq!(used.len(), there.count(), "{used:?}");
    // Two mounts are only referred to: that of the guest and that of the chain.
    assert_eq!(place.generated().len(), RESOURCES.len() * (UNITS.len() + 2));
    for unit in place.generated() {
        let text = place.body(&unit);
        assert!(!text.contains("UNDEFINED"), "{unit}: {text}");
        assert!(
            !text.contains("@{") && !text.contains("@esc"),
            "{unit}: {text}"
        );
    }
    // What stops with the logger would be stopped while it restarts, and wait for it while it waits for that.
    for unit in place.generated() {
        let body = place.body(&unit);
        let mut lines = body
            .lines()
            .filter(|l| l.contains("=mars-logger@") && !l.starts_with('#'));
        assert!(lines.all(|l| l.starts_with("After=")), "{unit}: {body}");
    }
    let body = place.body("mnt-data-lv\\x2d0.mount");
    for line in [
        "PartOf=mars.target",
        "After=mars-logger@lv\\x2d0.service",
        "AssertPathExists=/dev/mars/lv-0",
        "What=/dev/mars/lv-0",
        "Where=%f",
    ] {
        assert!(
            body.lines().any(|l| l == line),
            "{line} is missing in {body}"
        );
    }
}

/// What only the lack of software on this machine makes systemd say.
fn is_lack(line: &str) -> bool {
    ["lxc-start", "lxc-stop"].iter().any(|p| {
        line.ends_with(&format!(
            "Command /usr/bin/{p} is not executable: No such file or directory"
        ))
    })
}

#[test]
fn packaged_templates_pass_systemd_analyze() {
    let (place, plan) = rendered();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=yes"]);
    verify.args(plan.units.keys().map(|u| place.path("run").join(u)));
    let dirs = [
        place.path("run"),
        place.path("usr"),
        own_units(&place),
        "/usr/lib/systemd/system".into(),
    ];
    verify.env("SYSTEMD_UNIT_PATH", std::env::join_paths(dirs).unwrap());
    let out = verify.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    let names: Vec<&str> = plan.units.keys().map(String::as_str).collect();
    let bad: Vec<&str> = said
        .lines()
        .filter(|l| !is_lack(l) && (l.contains("mars") || names.iter().any(|n| l.contains(n))))
        .collect();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Our own units, with a program that exists.
fn own_units(place: &Place) -> PathBuf {
    let dir = place.path("own");
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(repository("units")).unwrap() {
        let entry = entry.unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let text = text.replace("/usr/sbin/mars", "/bin/true mars");
        fs::write(dir.join(entry.file_name()), text).unwrap();
    }
    dir
}

/// What systemd makes of `Where=%f`: a mount point that does not belong to the name of the unit would be refused when it is loaded.
#[test]
fn packaged_mount_has_the_place_of_its_name() {
    let place = Place::new(&[]);
    let unit = place.path("run/mnt-a\\x2db-lv\\x2d0.mount");
    let mount = |place: &str| format!("[Mount]\nWhat=/dev/mars/lv-0\nWhere={place}\n");
    let verify = |text: &str| {
        fs::write(&unit, text).unwrap();
        let out = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(&unit)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        said.lines()
            .filter(|l| l.contains("mnt-a"))
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(verify(&mount("%f")), [""; 0]);
    assert_eq!(verify(&mount("/mnt/a-b/lv-0")), [""; 0]);
    assert!(!verify(&mount("/mnt/a/b/lv-0")).is_empty());
}
