"""All configuration fields with their meaning and unit; the other files only override them."""

from ml_collections import ConfigDict, config_dict

from bt_jax.errors import UserError


def get_config() -> ConfigDict:
  """The fields and their defaults."""
  config = ConfigDict()
  config.task = "segmentation"  # or classification: which slices have a tumour
  config.preset = ""  # name of the preset; part of the name of the run's folder
  config.parallel = "jit"  # jit: the compiler partitions one program over all devices; pmap: each device runs it
  config.feed = "auto"  # resident: training slices stay in device memory; stream: they are read ahead from disk
  config.log = ""  # loggers besides metrics.csv and TensorBoard: mlflow, wandb, or both with a comma between
  config.host_timeout = 60  # seconds of silence after which another host counts as lost

  config.data = ConfigDict()
  config.data.name = "lgg"  # lgg: the published slices; phantom: synthetic ones, written on the spot; own: your own
  config.data.root = config_dict.placeholder(str)  # folder that holds kaggle_3m/, or your images and masks
  config.data.dir = config_dict.placeholder(str)  # folder of the built data set; None: TFDS's default folder
  config.data.expect_full = True  # require all 110 patients and 3,929 slices
  config.data.folds = 5  # name=own: number of folds, by a hash of the patients, if no file of yours assigns them
  config.data.window = ""  # name=own: intensities of black and white, e.g. "-160,240" for CT; "": by volume
  config.data.workers = config_dict.placeholder(int)  # feed=stream: reading processes; None: up to 8, as cores allow
  config.data.size = 256  # pixels; the network sees slices of size x size, scores are on the data's own grid
  config.data.channels = "pre,flair,post"  # input channels, in order; flair-1: of the slice before; all: every channel
  config.data.contrast = "none"  # contrast enhancement by slice: stretch (1st to 99th percentile) or clahe
  config.data.normalize = "auto"  # volume: z-score by the slice's own volume; image: by its own pixels; unit: 0..1;
  # percentiles: z-score between the 10th and 99th percentile of the volume around the head, as the published U-Net;
  # symmetric: -1..1; imagenet, caffe: as weights of PyTorch and Keras expect; auto: that of model.pretrained, or volume

  config.split = ConfigDict()
  config.split.kind = "fold"  # fold: by patient; group: several folds; random: by slice, leaks; buda10: ten cases;
  # all: every slice trains, none is tested
  config.split.fold = 0  # test fold, from 0; the next fold is for validation
  config.split.folds = "0-4"  # kind=group: test folds; the two folds after them are for validation
  config.split.seed = 0  # of the random split

  config.model = ConfigDict()
  config.model.name = "unet"  # segmentation: lite_unet, unet, resunet, resunet_scratch; else lite, cnn, resnet50
  config.model.width = 32  # unet, resunet_scratch, cnn: channels of the first level
  config.model.depth = 4  # unet, resunet_scratch, cnn: how many times the resolution is halved
  config.model.norm = "batch"  # unet, resunet_scratch, cnn: batch; group: by slice, so devices exchange only gradients
  config.model.pool = "max"  # cnn: max, average, min
  config.model.variant = "torchvision"  # resnet50, resunet: torchvision (timm, Hugging Face, RadImageNet) or keras
  config.model.encoder = "lite0"  # lite, lite_unet: size of the EfficientNet-Lite: lite0, lite1, lite2
  config.model.head = "linear"  # resnet50: linear, or the paper's
  config.model.slice_head = False  # lite_unet: a second output, any tumour in the slice, keeps healthy slices empty
  config.model.pretrained = ""  # source of weights: efficientnet-lite0, a file, hub name, converted weights, or run
  config.model.dtype = "float32"  # of the computation; parameters and statistics are always float32

  config.augment = ConfigDict()
  config.augment.flip = True  # left-right, with probability 0.5
  config.augment.rotation_degrees = 15.0  # largest rotation, in either direction
  config.augment.scale = 0.1  # largest change of size: a factor between 1 / (1 + scale) and 1 + scale
  config.augment.shift = 0.05  # largest shift, as a share of the image size
  config.augment.gain = 0.0  # factor between 1 / (1 + gain) and 1 + gain, for each channel separately
  config.augment.offset = 0.0  # largest offset of intensities in 0..1, for each channel separately
  config.augment.drop_sequence = 0.0  # probability that pre, post or both are replaced by FLAIR, the reference
  config.augment.gamma = 0.2  # exponent between 1 / (1 + gamma) and 1 + gamma
  config.augment.noise = 0.02  # largest standard deviation of noise, for intensities in 0..1

  config.loss = ConfigDict()
  config.loss.name = "bce_dice"  # bce, dice, bce_dice, focal_tversky; classification: cross_entropy
  config.loss.smooth = 1.0  # dice, bce_dice, focal_tversky: pixels added to numerator and denominator
  config.loss.pooled = True  # the same losses: one fraction for the batch rather than one for each slice
  config.loss.fp_weight = 0.3  # focal_tversky: weight of false positives
  config.loss.fn_weight = 0.7  # focal_tversky: weight of false negatives
  config.loss.exponent = 0.75  # focal_tversky: exponent of 1 - Tversky index
  config.loss.label_smoothing = 0.0  # cross_entropy: share of the target that is spread over both classes

  config.train = ConfigDict()
  config.train.seed = 0  # of initial parameters, order of slices, augmentation, dropout and mixup
  config.train.batch_size = 16  # slices, over all devices
  config.train.accumulate = 1  # microbatches per batch, processed one after another to save memory
  config.train.remat = False  # recompute most of the forward pass in the backward pass to save memory
  config.train.steps_per_dispatch = config_dict.placeholder(int)  # feed=resident: None is 1 on a CPU, 10 elsewhere
  config.train.epochs = 60
  config.train.optimizer = "adamw"  # sgd, adam, adamw
  config.train.learning_rate = 1e-3  # peak learning rate
  config.train.schedule = "cosine"  # cosine: decays to 0; constant
  config.train.warmup_epochs = 1.0  # length of the linear warm-up
  config.train.momentum = 0.9  # sgd
  config.train.epsilon = 1e-8  # adam, adamw
  config.train.weight_decay = 1e-4  # adamw, for kernels only
  config.train.stage_rates = ""  # factors of the learning rate by stage, e.g. "stem=0,stage1=0.1"; 0 freezes a stage
  config.train.batch_stats = "update"  # keep: the encoder, or a network without one, keeps its initial statistics
  config.train.sampling = "all"  # balanced: as many slices with a tumour as without; tumor: only slices with a tumour
  config.train.class_weights = "none"  # classification: balanced gives both classes the same weight in the loss
  config.train.mixup = 0.0  # classification: alpha of the Beta distribution of mixup; 0: no mixup
  config.train.ema_decay = 0.0  # decay of the moving average of the parameters, which is evaluated; 0: no average
  config.train.score = "pooled.dice"  # validation statistic that selects the best checkpoint; loss: the lowest loss
  config.train.patience = 0  # epochs without a better score until training stops; 0: never
  config.train.deterministic = True  # on GPUs: use only deterministic kernels

  config.eval = ConfigDict()
  config.eval.batch_size = 32  # slices, over all devices
  config.eval.threshold = config_dict.placeholder(float)  # None: chosen on the validation set
  config.eval.largest_component = False  # segmentation: keep only the largest 3-D component of each volume
  config.eval.mirror = False  # average the probabilities of each slice and its mirror image
  config.eval.flair_only = False  # also predict the test slices with FLAIR in all channels, as if others were missing
  config.eval.baselines = True  # also evaluate the baselines on the same slices

  config.crossval = ConfigDict()
  config.crossval.folds = "all"  # folds of --mode=crossval: all, or some, e.g. "0,3-6"
  config.crossval.group = 1  # neighbouring folds tested by one training: 2 halves the number of trainings
  config.crossval.parallel = "1"  # trainings at a time, each on its share of the devices; auto: one for each device

  config.report = ConfigDict()
  config.report.subgroups = "all"  # all, none, or some of site, grade, sequences, size and the molecular clusters
  config.report.show_slices = True  # images of slices in the run's folder and its report
  return config


def start_from_lite0(config: ConfigDict, name: str) -> None:
  """The recipe for `lite_unet` and `lite`, the networks with an EfficientNet-Lite0 encoder from ImageNet."""
  config.data.update(normalize="volume")
  config.model.update(name=name, encoder="lite0", pretrained="efficientnet-lite0")
  config.augment.update(rotation_degrees=20.0, scale=0.15, shift=0.08, gain=0.1, offset=0.02, gamma=0.0, noise=0.0)
  config.augment.update(drop_sequence=0.5)
  config.train.update(weight_decay=1e-2, warmup_epochs=0.5, sampling="balanced", ema_decay=0.99)
  config.eval.update(flair_only=True)


def suit_own_data(config: ConfigDict) -> list[str]:
  """Resets the preset fields that suit only LGG's sequences, if the data are others; returns the fields changed.

  `drop_sequence` and `flair_only` replace other channels by FLAIR, and the baselines look for what is bright in FLAIR.
  """
  if config.data.name in ("lgg", "phantom"):
    return []
  if config.data.channels == get_config().data.channels:
    config.data.update(channels="all")
  changed = []
  for section, field, value in (
    ("augment", "drop_sequence", 0.0),
    ("eval", "flair_only", False),
    ("eval", "baselines", False),
  ):
    if config[section][field] != value:
      config[section][field] = value
      changed.append(f"{section}.{field}={value}")
  return changed


def check_preset(file: str, preset: str, presets: tuple[str, ...]) -> None:
  """Raises UserError if a configuration file has no preset of this name."""
  if preset not in presets:
    raise UserError(f"{file} has no preset {preset!r}: there are {', '.join(filter(None, presets))}, or none at all")
