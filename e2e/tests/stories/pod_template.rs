//! What users add to the pods of their Runs, and what of it is refused.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, PersistentVolume, PersistentVolumeClaim, Pod, Secret, ServiceAccount,
};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use trainyard_api::capacity;
use trainyard_api::run_status::{RunPhase, RunReason};
use trainyard_e2e::stories::{RunDraft, Story, budgets, cluster, run};

/// One accelerator.
const ONE_GPU: &str = "Standard_NC24ads_A100_v4";

/// What Pod Security `restricted` wants of every container.
fn restricted() -> Value {
    json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}})
}

fn uploader() -> Value {
    json!({
        "name": "uploader", "image": "registry.example/uploader:1", "args": ["--from", "/out"],
        "volumeMounts": [{"name": "scratch", "mountPath": "/out", "readOnly": true}],
        "securityContext": restricted(), "resources": {"cpu": "500m", "memory": "1Gi"},
    })
}

/// Thousandths of a cpu and bytes.
fn requested(container: &Container) -> Result<(i64, i64)> {
    let requests = container.resources.as_ref().and_then(|one| one.requests.as_ref()).context("requests")?;
    let (cpu, memory) = (capacity::millis(&requests["cpu"]), capacity::bytes(&requests["memory"]));
    Ok((cpu.context("cpu")?, memory.context("memory")?))
}

/// A claim of that name, and a volume of many readers and writers that it is bound to.
async fn bound_claim(story: &Story, name: &str) -> Result<()> {
    let share = json!({"storageClassName": "", "accessModes": ["ReadWriteMany"]});
    let of_story = format!("{}-{name}", story.namespace);
    let mut volume = share.clone();
    volume["capacity"] = json!({"storage": "1Ti"});
    volume["nfs"] = json!({"server": "files.example", "path": "/imagenet"});
    let volume = json!({"metadata": {"name": of_story}, "spec": volume});
    story.create(Api::<PersistentVolume>::all(story.client.clone()), volume).await?;
    let mut claim = share;
    claim["resources"] = json!({"requests": {"storage": "1Ti"}});
    claim["volumeName"] = json!(of_story);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(story.client.clone(), &story.namespace);
    story.create(claims, json!({"metadata": {"name": name}, "spec": claim})).await
}

#[tokio::test]
async fn a_run_with_volumes_a_security_context_and_a_sidecar_fits_its_machine() -> Result<()> {
    let story = Story::begin("additions to pods").await?;
    story.label_namespace(json!({"pod-security.kubernetes.io/enforce": "restricted"})).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(story.client.clone(), &story.namespace);
    story.create(accounts, json!({"metadata": {"name": "trainer"}})).await?;
    bound_claim(&story, "imagenet").await?;

    story.create_cluster(cluster("pool").of_size(ONE_GPU).max(2)).await?;
    let training = run("training").on("pool").nodes(2).lasting("8s").secured(restricted()).adding(json!({
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "imagenet", "readOnly": true}},
            {"name": "settings", "configMap": {"name": "settings", "optional": true}},
        ],
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "scratch", "mountPath": "/out"},
            {"name": "data", "mountPath": "/data", "subPath": "train", "readOnly": true},
        ],
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 2000, "seccompProfile": {"type": "RuntimeDefault"}},
        "serviceAccountName": "trainer",
        "sidecars": [uploader()],
    }));
    story.submit(training).await?;
    let running = story.run_comes_to("training", RunPhase::Running).await?;

    let pod = story.pods().get("training-worker-1").await?;
    let spec = pod.spec.context("a pod has a spec")?;
    let main = spec.containers.first().context("the training's container")?;
    let [sidecar] = &spec.init_containers.unwrap_or_default()[..] else { panic!("one sidecar") };
    assert_eq!(sidecar.restart_policy.as_deref(), Some("Always"), "a native one");
    let nodes = story.nodes_of("pool").await?;
    let node = nodes.iter().find_map(|node| node.status.as_ref()?.allocatable.clone()).context("measured")?;
    let (own, beside) = (requested(main)?, requested(sidecar)?);
    assert_eq!(beside, (500, 1 << 30));
    assert_eq!(
        (own.0 + beside.0, own.1 + beside.1),
        (node.cpu_millis, node.memory_bytes),
        "all of it, and no more"
    );
    let mounts: Vec<&str> =
        main.volume_mounts.iter().flatten().map(|mount| mount.mount_path.as_str()).collect();
    assert_eq!(mounts, ["/dev/shm", "/out", "/data"], "and no token beside them");
    assert_eq!(spec.service_account_name.as_deref(), Some("trainer"));
    assert_eq!(spec.security_context.and_then(|one| one.run_as_user), Some(1000));

    // A sidecar that fails again and again is its kubelet's business.
    let failing = json!({"status": {"initContainerStatuses": [{
        "name": "uploader", "image": "registry.example/uploader:1", "imageID": "", "ready": false, "started": false,
        "restartCount": 5, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 2m40s"}},
        "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
    }]}});
    let patched = story.pods();
    patched.patch_status("training-worker-1", &PatchParams::default(), &Patch::Strategic(failing)).await?;
    let done = story.run_comes_to("training", RunPhase::Completed).await?;
    assert_eq!(budgets(&done), (0, 0), "user 0, infrastructure 0");
    let attempts = |run: &trainyard_api::Run| run.status.clone().map_or(0, |status| status.attempts.len());
    assert_eq!((attempts(&running), attempts(&done)), (1, 1));
    Ok(())
}

/// What the API server says to a Run that it does not take.
async fn refused(story: &Story, draft: RunDraft) -> Result<String> {
    let error = story.submit(draft).await.err().context("the API server took it")?;
    Ok(format!("{error:#}"))
}

/// What a Run says that no machine is bought for.
async fn turned_away(story: &Story, name: &str, reason: RunReason) -> Result<String> {
    let shown =
        story.run_shows(name, &format!("to say {reason}"), |status| status.reason == Some(reason)).await?;
    Ok(shown.status.and_then(|status| status.message).unwrap_or_default())
}

#[tokio::test]
async fn what_contradicts_itself_is_refused_in_words_and_buys_no_machine() -> Result<()> {
    let story = Story::begin("conflicts in pods").await?;
    story.create_cluster(cluster("pool").of_size(ONE_GPU).max(1)).await?;
    let with = |name: &str, template: Value| run(name).on("pool").adding(template);

    let scratch = json!([{"name": "scratch", "emptyDir": {}}]);
    let twice = json!({"volumes": scratch, "volumeMounts": [
        {"name": "scratch", "mountPath": "/out"}, {"name": "scratch", "mountPath": "/out"}]});
    let message = refused(&story, with("twice", twice)).await?;
    ensure!(message.contains("spec.podTemplate.volumeMounts[1]: Duplicate value"), "{message}");
    let mut usurper = uploader();
    usurper["name"] = json!("main");
    let message =
        refused(&story, with("usurper", json!({"volumes": scratch, "sidecars": [usurper]}))).await?;
    ensure!(message.contains("are trainyard's own: name the sidecar otherwise"), "{message}");
    let message = refused(&story, with("unmounted", json!({"sidecars": [uploader()]}))).await?;
    ensure!(message.contains("must name one of podTemplate.volumes"), "{message}");
    let ours = json!({"env": [{"name": "AZ_BATCHAI_TASK_INDEX", "value": "0"}]});
    let message = refused(&story, with("misled", ours)).await?;
    ensure!(message.contains("trainyard sets these variables itself"), "{message}");

    // What only the operator can see.
    let rootless = json!({"securityContext": {"runAsNonRoot": true}});
    story.submit(with("rootless", rootless).secured(json!({"runAsUser": 0}))).await?;
    let message = turned_away(&story, "rootless", RunReason::NotAccepted).await?;
    ensure!(message.contains("container.securityContext has runAsUser 0, which is root"), "{message}");
    let mut greedy = uploader();
    greedy["resources"] = json!({"cpu": 1, "memory": "1Ti"});
    story.submit(with("greedy", json!({"volumes": scratch, "sidecars": [greedy]}))).await?;
    let message = turned_away(&story, "greedy", RunReason::DoesNotFit).await?;
    ensure!(message.contains("podTemplate.sidecars take 1048576Mi memory beside each process"), "{message}");
    story.submit(with("nobody", json!({"serviceAccountName": "nobody"}))).await?;
    let message = turned_away(&story, "nobody", RunReason::NotAccepted).await?;
    ensure!(message.contains("serviceaccount \"nobody\" not found"), "{message}");
    let classes: Api<RuntimeClass> = Api::all(story.client.clone());
    let class = |name: &str| json!({"metadata": {"name": name}, "handler": "runc"});
    let mut heavy = class("story-heavy");
    heavy["overhead"] = json!({"podFixed": {"memory": "160Mi"}});
    for class in [class("story-light"), heavy] {
        classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    }
    story.submit(with("heavy", json!({"runtimeClassName": "story-heavy"}))).await?;
    let message = turned_away(&story, "heavy", RunReason::NotAccepted).await?;
    ensure!(message.contains("RuntimeClass story-heavy takes 160Mi memory for itself"), "{message}");

    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.context("a status")?.last_node_ordinal, 0, "no machine was bought");
    story.submit(with("light", json!({"runtimeClassName": "story-light"})).lasting("1s")).await?;
    story.run_comes_to("light", RunPhase::Completed).await?;
    let pod: Pod = story.pods().get("light-worker-0").await?;
    assert_eq!(pod.spec.and_then(|spec| spec.runtime_class_name).as_deref(), Some("story-light"));
    Ok(())
}

#[tokio::test]
async fn a_run_that_asks_for_its_machines_files_is_refused_where_pod_security_is_enforced() -> Result<()> {
    let story = Story::begin("files of the machine").await?;
    story.label_namespace(json!({"pod-security.kubernetes.io/enforce": "baseline"})).await?;
    story.create_cluster(cluster("pool").max(1)).await?;
    let curious = json!({
        "volumes": [{"name": "machine", "hostPath": {"path": "/var/lib/kubelet"}}],
        "volumeMounts": [{"name": "machine", "mountPath": "/machine"}],
    });
    story.submit(run("curious").on("pool").adding(curious)).await?;
    let message = turned_away(&story, "curious", RunReason::NotAccepted).await?;
    ensure!(message.contains("hostPath volumes (volume \"machine\")"), "{message}");
    let rested = story.cluster_rests_with("pool", 0).await?;
    assert_eq!(rested.status.context("a status")?.last_node_ordinal, 0, "no machine was bought");
    Ok(())
}

/// All that a Run can add to a pod: volumes of every source, who it is, what runs beside it.
const ALL_OF_IT: &str = include_str!("../../../src/resources/goldens/pod-template.spec.json");

/// The pod's spec that follows from it, without what every pod has.
const ITS_POD: &str = include_str!("../../../src/resources/goldens/pod-template.json");

/// Variables whose values come from elsewhere.
fn variables_from_elsewhere() -> Value {
    json!([
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
        {"name": "CONFIG", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
    ])
}

/// Everything that pods with all of it name.
async fn everything_they_name(story: &Story) -> Result<()> {
    let space = &story.namespace;
    let object = |name: &str| json!({"metadata": {"name": name}});
    story.create(Api::<ServiceAccount>::namespaced(story.client.clone(), space), object("trainer")).await?;
    let mut settings = object("c");
    settings["data"] = json!({"k": "settings"});
    story.create(Api::<ConfigMap>::namespaced(story.client.clone(), space), settings).await?;
    for name in ["s", "blob"] {
        let mut secret = object(name);
        secret["stringData"] = json!({"k": "secret"});
        story.create(Api::<Secret>::namespaced(story.client.clone(), space), secret).await?;
    }
    let mut class = object("nvidia");
    class["handler"] = json!("nvidia");
    story.create(Api::<RuntimeClass>::all(story.client.clone()), class).await?;
    bound_claim(story, "data").await
}

/// Takes out of a list what the API server has put there: the token of the ServiceAccount.
fn take_token(list: &mut Value) -> usize {
    let list = list.as_array_mut().expect("a list");
    let all = list.len();
    list.retain(|one| !one["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-")));
    all - list.len()
}

/// Fails where `whole` lacks anything of `part`. Lists are the same length; the API server adds fields to objects.
fn has_all_of(whole: &Value, part: &Value, path: &str) -> Result<()> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                let found = whole.get(key).with_context(|| format!("{path}.{key} is missing"))?;
                has_all_of(found, value, &format!("{path}.{key}"))?;
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            ensure!(
                whole.len() == part.len(),
                "{path} has {} and not {}: {whole:?}",
                whole.len(),
                part.len()
            );
            for (at, (found, value)) in whole.iter().zip(part).enumerate() {
                has_all_of(found, value, &format!("{path}[{at}]"))?;
            }
        }
        _ => ensure!(whole == part, "{path} is {whole}, and was to be {part}"),
    }
    Ok(())
}

#[tokio::test]
async fn all_that_a_run_can_add_is_in_its_pod_as_the_api_server_keeps_it() -> Result<()> {
    let story = Story::begin("all additions").await?;
    everything_they_name(&story).await?;
    story.create_cluster(cluster("pool").of_size(ONE_GPU).max(1)).await?;
    let all: Value = serde_json::from_str(ALL_OF_IT)?;
    let training = run("training").on("pool").lasting("2s");
    let training = training.secured(all["container"]["securityContext"].clone());
    let training =
        training.adding(all["podTemplate"].clone()).adding(json!({"env": variables_from_elsewhere()}));
    story.submit(training).await?;
    story.run_comes_to("training", RunPhase::Completed).await?;

    let stored = serde_json::to_value(story.pods().get("training-worker-0").await?)?;
    let mut spec = stored["spec"].clone();
    let mut expected: Value = serde_json::from_str(ITS_POD)?;
    // As large as the machine, which is another one there; and it is at one registry.
    for field in ["resources", "image"] {
        expected["containers"][0].as_object_mut().context("the training's container")?.remove(field);
    }
    assert_eq!(take_token(&mut spec["volumes"]), 1, "the token it asks for");
    for containers in ["containers", "initContainers"] {
        for container in spec[containers].as_array_mut().context("containers")? {
            assert_eq!(take_token(&mut container["volumeMounts"]), 1, "is in {}", container["name"]);
        }
    }
    // A sidecar without mounts of its own has the token's alone.
    expected["initContainers"][1]["volumeMounts"] = json!([]);
    has_all_of(&spec, &expected, "spec")?;

    let env = spec["containers"][0]["env"].as_array().context("variables")?;
    let mut from_elsewhere = env.clone();
    from_elsewhere.retain(|one| one.get("valueFrom").is_some());
    assert_eq!(Value::Array(from_elsewhere), variables_from_elsewhere());
    Ok(())
}
