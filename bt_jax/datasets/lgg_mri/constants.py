"""Constants of the LGG MRI segmentation data set, as it was published."""

import dataclasses

from bt_jax.datasets.info import DatasetInfo

FOLDS = 22

# The genomic clusters and clinical fields of `data.csv`, in its order; -1 stands for an empty field.
CLINICAL_FIELDS = (
    "RNASeqCluster", "MethylationCluster", "miRNACluster", "CNCluster", "RPPACluster", "OncosignCluster", "COCCluster",
    "histological_type", "neoplasm_histologic_grade", "tumor_tissue_site", "laterality", "tumor_location", "gender",
    "age_at_initial_pathologic", "race", "ethnicity", "death01",
)  # fmt: skip
GENOMIC_CLUSTERS = CLINICAL_FIELDS[:7]  # COC is the cluster of clusters
UNKNOWN = -1  # an empty field

INFO = DatasetInfo(
  name="lgg_mri",
  channels=("pre", "flair", "post"),
  classes=("tumor",),
  ids=(1,),
  reference="flair",
  size=256,
  licence="CC BY-NC-SA 4.0",
  citation="Buda, Saha, Mazurowski (2019), Computers in Biology and Medicine 109; Mazurowski et al. (2017), Journal of Neuro-Oncology 133",
  folds=FOLDS,
  patient_fields=("site", "has_pre", "has_post", *CLINICAL_FIELDS),
  masks="the radiologists' masks",
)
PHANTOM = dataclasses.replace(INFO, masks="the masks that the synthetic slices were drawn with")
