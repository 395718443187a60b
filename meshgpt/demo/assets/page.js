// Hands what the server says to the viewer in its frame; what came last, once more when the frame is ready.
const post = () => {
  const frame = document.getElementById("viewer");
  if (frame?.contentWindow && props.value) frame.contentWindow.postMessage(JSON.parse(JSON.stringify(props.value)), location.origin);
};
watch("value", post);
addEventListener("message", ({ data, source }) => {
  if (data === "ready" && source === document.getElementById("viewer")?.contentWindow) post();
});
