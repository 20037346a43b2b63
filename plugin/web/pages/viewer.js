// Starts OHIF on one study with the organs drawn over its CT, without a question asked.
//
// The address names the study and, if need be, the SEG instance by Orthanc's identifiers:
// viewer?study=ID&seg=ID. OHIF's own way to name them by UIDs works too.

import { make } from "./elements.js";
import { isGone, oar, orthanc, Problem, problem } from "./service.js";

const OAR = new URL(".", location.href).pathname; // …/oar/
const OHIF = new URL("../oar-ohif/", location.href).pathname;
const DICOM_WEB = new URL("../dicom-web", location.href).pathname;

// --- which study, which segmentation -------------------------------------------------------------

async function series(instance) {
  const { MainDicomTags } = await orthanc(`instances/${instance}/series`);
  return MainDicomTags.SeriesInstanceUID;
}

/**
 * The newest SEG that is the study's own result and still there, or null.
 *
 * A shadow's is only seen when asked for.
 */
async function newestSeg(study) {
  const { jobs } = await oar(`jobs?study=${study}&state=done`);
  const results = jobs.filter((job) => job.kind !== "shadow").flatMap((job) => job.results);
  for (const { kind, orthanc_id: instance } of results) {
    if (kind !== "seg") {
      continue;
    }
    try {
      await orthanc(`instances/${instance}`);
      return instance;
    } catch (why) {
      if (!isGone(why)) {
        throw why;
      }
    }
  }
  return null;
}

function sayIfGone(why) {
  if (isGone(why)) {
    throw new Problem("The study is not (or no longer) in Orthanc.", why.status);
  }
  throw why;
}

/** Say in the address, in OHIF's words, what is wanted; true if there is a segmentation. */
async function translateAddress() {
  const wanted = new URLSearchParams(location.search);
  const study = wanted.get("study");
  if (study) {
    const { MainDicomTags } = await orthanc(`studies/${study}`).catch(sayIfGone);
    const seg = wanted.get("seg") || (await newestSeg(study));
    const words = new URLSearchParams({ StudyInstanceUIDs: MainDicomTags.StudyInstanceUID });
    if (seg) {
      words.set("initialSeriesInstanceUID", await series(seg));
    }
    history.replaceState(null, "", `?${words}`);
  } else if (!wanted.get("StudyInstanceUIDs")) {
    throw new Problem("The address names no study. Open the viewer from a study's page.");
  }
  return new URLSearchParams(location.search).has("initialSeriesInstanceUID");
}

// --- how it is hung ------------------------------------------------------------------------------

const PROTOCOL = "organs-at-risk";

const SOFT_TISSUE = { windowWidth: 400, windowCenter: 40 };

const SAME_WINDOW = { type: "voi", id: "oar-window", source: true, target: true };

const plane = (orientation) => ({
  viewportOptions: {
    viewportId: `oar-${orientation}`,
    toolGroupId: "mpr",
    viewportType: "volume",
    orientation,
    initialImageOptions: { preset: "middle" },
    syncGroups: [SAME_WINDOW],
  },
  displaySets: [{ id: "ct", options: { voi: SOFT_TISSUE } }, { id: "organs" }],
});

const rule = (attribute, value, required, weight = 1) => ({
  attribute,
  constraint: { equals: { value } },
  required,
  weight,
});

/** Axial, sagittal and coronal planes of the CT that the wanted segmentation was made of. */
const protocol = {
  id: PROTOCOL,
  name: "Organs at risk",
  protocolMatchingRules: [],
  toolGroupIds: ["mpr"],
  numberOfPriorsReferenced: 0,
  imageLoadStrategy: "nth",
  displaySetSelectors: {
    ct: {
      seriesMatchingRules: [
        rule("Modality", "CT", true),
        rule("isReconstructable", true, false),
        rule("isSegmented", true, false, 20),
      ],
    },
    organs: { seriesMatchingRules: [rule("isDisplaySetFromUrl", true, true)] },
  },
  stages: [
    {
      name: "Three planes",
      viewportStructure: {
        layoutType: "grid",
        properties: {
          rows: 2,
          columns: 3,
          layoutOptions: [
            { x: 0, y: 0, width: 2 / 3, height: 1 },
            { x: 2 / 3, y: 0, width: 1 / 3, height: 1 / 2 },
            { x: 2 / 3, y: 1 / 2, width: 1 / 3, height: 1 / 2 },
          ],
        },
      },
      viewports: ["axial", "sagittal", "coronal"].map(plane),
    },
  ],
};

const extension = {
  id: "orthanc-oar",
  preRegistration({ servicesManager }) {
    const { displaySetService, hangingProtocolService } = servicesManager.services;
    const wanted = new URLSearchParams(location.search).get("initialSeriesInstanceUID");
    hangingProtocolService.addCustomAttribute(
      "isSegmented",
      "Is what the segmentation in the address was made of",
      (displaySet) =>
        displaySetService
          .getActiveDisplaySets()
          .some(
            (one) =>
              one.SeriesInstanceUID === wanted &&
              one.referencedSeriesInstanceUID === displaySet.SeriesInstanceUID,
          ),
    );
  },
  getHangingProtocolModule: () => [{ name: PROTOCOL, protocol }],
};

// --- OHIF's configuration ------------------------------------------------------------------------

const configuration = (segmented) => ({
  name: "orthanc-oar",
  routerBasename: OAR.replace(/\/$/, ""),
  showStudyList: false,
  extensions: [extension],
  modes: ["@ohif/mode-basic"], // the one in which a segmentation cannot be changed
  modesConfiguration: {
    "@ohif/mode-basic": {
      routeName: { $set: "viewer" },
      hangingProtocol: { $set: segmented ? PROTOCOL : "default" },
      routes: {
        0: {
          layoutInstance: {
            props: {
              leftPanelClosed: { $set: true },
              rightPanelClosed: { $set: !segmented },
            },
          },
        },
      },
    },
  },
  customizationService: {
    global: {
      "ohif.tours": { $set: [] },
      "panelSegmentation.tableMode": { $set: "expanded" },
      "panelSegmentation.showAddSegment": { $set: false },
    },
  },
  disableConfirmationPrompts: true,
  showPatientInfo: "visible", // who it is
  investigationalUseDialog: { option: "never" }, // said in the header, always
  whiteLabeling: {
    createLogoComponentFn: (React) =>
      React.createElement("strong", { style: { color: "#fff" } }, "Research use only"),
  },
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  maxNumberOfWebWorkers: 3,
  defaultDataSourceName: "orthanc",
  dataSources: [
    {
      namespace: "@ohif/extension-default.dataSourcesModule.dicomweb",
      sourceName: "orthanc",
      configuration: {
        friendlyName: "Orthanc",
        name: "orthanc",
        qidoRoot: DICOM_WEB,
        wadoRoot: DICOM_WEB,
        wadoUriRoot: DICOM_WEB,
        imageRendering: "wadors",
        thumbnailRendering: "wadors",
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
      },
    },
  ],
});

try {
  const segmented = await translateAddress();
  window.PUBLIC_URL = OHIF;
  window.browserImportFunction = (name) => import(name);
  window.config = configuration(segmented);
  document.head.append(make("script", { src: `${OHIF}app.bundle.js` }));
} catch (why) {
  const sentence = `The viewer cannot start. ${problem(why).message}`;
  document.body.prepend(make("p", { class: "oar-alert", role: "alert" }, sentence));
}
