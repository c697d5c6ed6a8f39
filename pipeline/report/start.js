// Everything is defined: draw the page.

showIntro();
showTiles();
showFrieze();
showGrid();
if (pairs.count) {
  initDetail();
  initGallery();
  readState();
} else {
  byId("gallery").hidden = true;
}
byId("pictured").textContent =
  pictured < done
    ? `Each card is a pair: one content image in one style. ${whole.format(pictured)} of ${whole.format(done)} pictures have thumbnails on this page; the others link to their image files in the folder of this page.`
    : "Each card is a pair: the content image above, the style below, the result on the right. Open it for the loss curve and a slider between content and result.";
showLoss();
showSpeed();
showErrors();
showSettings();
byId("made").textContent = `Made ${time(data.madeAt)} from the records in ${data.output.uri}. Times are in your time zone. This page holds everything that it shows and needs no network.`;
