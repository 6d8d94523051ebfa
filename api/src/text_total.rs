//! How much a Run may hold in all.
//!
//! Each field has a bound, and a hundred fields at their bounds would make a megabyte and a half, the most that an API server
//! stores. The operator keeps every Run that has not ended, so some hundreds of such Runs would take all its memory, and with
//! it the machines of everybody. So what a Run writes is bounded in sum, too.

use kube::core::Rule;

/// Characters of all arguments, variables, annotations, sidecars and volumes together: ten times what the longest command
/// lines have that people write. A script of its own is a file of the image or of a ConfigMap.
pub const MOST: i64 = 65_536;

/// What each entry of a list counts beside its text: a thousand empty strings are not nothing.
const ENTRY: i64 = 16;

/// For the spec of a Run.
pub(crate) fn is_bounded() -> Rule {
    let role = |name: &str| {
        let role = format!("self.distribution.tensorflow.{name}");
        format!("(has({role}) ? {} : 0)", [words(&role), environment(&role)].concat().join(" + "))
    };
    let roles = ["chief", "worker", "parameterServer", "evaluator"].map(role).join(" + ");
    let own = [words("self"), environment("self")].concat().join(" + ");
    let template = template("self.podTemplate");
    Rule::new(format!(
        "{own} + (has(self.podTemplate) ? {template} : 0) + \
         (has(self.distribution) && has(self.distribution.tensorflow) ? {roles} : 0) <= {MOST}"
    ))
    .message(
        format!(
            "command, args, environment and podTemplate with its sidecars and volumes must have at most {MOST} characters \
             together, of which each entry counts {ENTRY} besides its own: put what is long into the image, a ConfigMap or \
             a volume"
        )
        .as_str(),
    )
}

fn words(holder: &str) -> Vec<String> {
    ["command", "args"].map(|field| list(holder, field, "one", "size(one)")).to_vec()
}

fn environment(holder: &str) -> Vec<String> {
    vec![map(holder, "environment")]
}

fn template(holder: &str) -> String {
    let source = |kind: &str| {
        format!(
            "(has(one.valueFrom) && has(one.valueFrom.{kind}) ? \
             size(one.valueFrom.{kind}.name) + size(one.valueFrom.{kind}.key) : 0)"
        )
    };
    let variable = format!(
        "size(one.name) + (has(one.value) ? size(one.value) : 0) + {} + {}",
        source("secretKeyRef"),
        source("configMapKeyRef")
    );
    let mount = "size(one.mountPath) + (has(one.subPath) ? size(one.subPath) : 0)";
    let sidecar = [
        words("sidecar"),
        vec![list("sidecar", "env", "one", &variable), list("sidecar", "volumeMounts", "one", mount)],
    ];
    let keys = |holder: &str| list(holder, "items", "one", "size(one.key) + size(one.path)");
    let within = |holder: &str, kind: &str| {
        let source = format!("{holder}.{kind}");
        format!("(has({source}) ? {} : 0)", keys(&source))
    };
    let projected = format!("{} + {}", within("source", "configMap"), within("source", "secret"));
    let volume = [
        within("volume", "configMap"),
        within("volume", "secret"),
        format!(
            "(has(volume.projected) ? {} : 0)",
            list("volume.projected", "sources", "source", &projected)
        ),
        format!("(has(volume.csi) ? {} : 0)", map("volume.csi", "volumeAttributes")),
    ];
    [
        map(holder, "annotations"),
        list(holder, "env", "one", &variable),
        list(holder, "volumeMounts", "one", mount),
        list(holder, "sidecars", "sidecar", &sidecar.concat().join(" + ")),
        list(holder, "volumes", "volume", &volume.join(" + ")),
    ]
    .join(" + ")
}

/// What the entries of a list count.
fn list(holder: &str, field: &str, entry: &str, counts: &str) -> String {
    format!("(has({holder}.{field}) ? {holder}.{field}.map({entry}, {ENTRY} + {counts}).sum() : 0)")
}

/// The same of a map of strings.
fn map(holder: &str, field: &str) -> String {
    let all = format!("{holder}.{field}");
    format!("(has({all}) ? {all}.map(name, {ENTRY} + size(name) + size({all}[name])).sum() : 0)")
}
