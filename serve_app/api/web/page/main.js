// The page comes to life: the form, the queue, the gallery, and what connects them.

import { ask, hasKey, isKeyed, sentence, taskPath, useKey } from "./api.js";
import { iconButton, setText } from "./dom.js";
import { takeFiles } from "./drops.js";
import { follow } from "./events.js";
import { Form } from "./form/form.js";
import { settingsOf } from "./form/file_settings.js";
import { submit } from "./form/submit.js";
import { Gallery } from "./gallery/gallery.js";
import { inputsOf, openViewer, taskInAddress } from "./gallery/viewer.js";
import { logIn } from "./login.js";
import { noticeButton, tellOfEnds } from "./notice.js";
import { Queue } from "./queue/queue.js";
import { showReplicas } from "./queue/replicas.js";
import { attempt } from "./queue/row.js";
import { service } from "./service.js";
import { tasks } from "./tasks.js";
import { themeButton } from "./theme.js";
import { toast } from "./toast.js";

const $ = (id) => document.getElementById(id);

/** Ask for what is served, for as long as it takes the service to answer. */
async function metadata() {
  for (;;) {
    if (isKeyed && !hasKey()) await logIn();
    try {
      return await ask("/v1/service/metadata");
    } catch (error) {
      setText($("connection"), sentence(error));
      if (error.status !== 401) await new Promise((resolve) => setTimeout(resolve, 1_500));
      else useKey("");
    }
  }
}

/** What the viewer and the queue can have the form do. */
function actionsOn(form) {
  return {
    canTake: (field) => form.pictures.canTake(field),
    usePicture: (field, file) => {
      form.pictures.put(field, [file]);
      $("prompt").focus();
    },
    useSettings: async (id, options) => {
      const { settings, inputs } = await ask(taskPath(id, "/settings"));
      const files = await inputsOf(id, inputs);
      form.pictures.clear();
      form.use(settings, options);
      for (const [field, file] of files) if (form.pictures.canTake(field)) form.pictures.put(field, [file]);
      if (settings.width) form.sizes.use(settings.width, settings.height);
      toast("The form has its settings.");
    },
    goOn: (task) => form.goOn(task),
    again: async (id, changes = {}) => {
      await submit({ task_id: id, ...changes }, [], "/v1/tasks/video/again");
      toast("The video is in the queue.");
    },
  };
}

/** Take dropped files: pictures to the form, a video of this service for its settings. */
async function taken(form, files) {
  for (const file of files.filter((file) => file.type.startsWith("video/"))) {
    const settings = await settingsOf(file);
    if (settings === null) continue;
    form.use(settings, { keepsSeed: true });
    const lacks = ["image_sha256", "last_image_sha256", "reference_sha256"].some((name) => settings[name]);
    toast(`The form has the settings of ${file.name}.${lacks ? " Add its pictures, which the file does not hold." : ""}`);
    return;
  }
  if (!form.take(files)) toast("This model takes no such file.", { isError: true });
}

function showConnection(state) {
  $("connection").dataset.state = state;
  setText($("connection"), state === "live" ? "" : "No connection. Trying again…");
  if (state !== "live") return;
  attempt(() => tasks.refresh());
  service.look();
}

/** Have the task that the address names be known; once it has a video, that is shown. */
function lookUpAddress() {
  const id = taskInAddress();
  if (id && !tasks.get(id)) ask(taskPath(id, "/status")).then((task) => tasks.put(task), () => {});
}

async function start() {
  document.addEventListener("locked", () => isKeyed && logIn());
  $("tools").replaceChildren(...[noticeButton(), themeButton()].filter(Boolean));
  const served = await metadata();
  setText($("connection"), "");
  const form = new Form(served);
  const actions = actionsOn(form);
  const open = (id) => openViewer(id, actions);
  new Queue($("queue"), { onAgain: (id) => attempt(() => actions.again(id)) });
  new Gallery($("gallery"), { onOpen: open });
  showReplicas($("replicas"));
  tellOfEnds();
  takeFiles((files) => attempt(() => taken(form, files)));
  if (isKeyed) {
    const leave = () => {
      useKey("");
      location.reload();
    };
    $("tools").append(iconButton("key", "Forget the key", leave));
  }
  document.addEventListener("visibilitychange", () => document.hidden || service.look());
  const openFromAddress = () => taskInAddress() && open(taskInAddress());
  addEventListener("hashchange", () => {
    lookUpAddress();
    openFromAddress();
  });
  tasks.addEventListener("moved", () => service.lookSoon());
  tasks.addEventListener("change", openFromAddress);
  lookUpAddress();
  follow((task) => tasks.put(task), showConnection);
}

start();
